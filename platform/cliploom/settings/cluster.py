"""Which run, and on which Ray cluster."""

from __future__ import annotations

from pydantic import Field

from cliploom.settings.base import Positive, Section


class Run(Section):
    """Which run this is and where it keeps what it makes."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="a run of this name goes on")
    storage: str = Field("storage", description="URI of the folder that holds runs (local or s3://)")


class Ray(Section):
    """Which Ray cluster the job uses."""

    address: str | None = Field(None, description="of a cluster; by default the one it runs in, else a local one")
    cpus: Positive | None = Field(None, description="CPUs of a local cluster; by default all of the machine's")
    object_store_gb: float = Field(1.0, gt=0, description="object store of a local cluster, in GiB")
