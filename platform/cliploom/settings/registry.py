"""MLflow, and what a model version must reach there."""

from __future__ import annotations

from pydantic import Field

from cliploom.settings.base import Fraction, Section


class Registry(Section):
    """MLflow: tracking and model versions."""

    uri: str | None = Field(None, description="MLflow server or sqlite:///FILE; by default sqlite in run.storage")
    experiment: str = Field("cliploom", description="MLflow experiment of runs")
    model_name: str | None = Field(
        None, pattern=r"^[^/:@']+$", description="registered model that training adds a version to"
    )


class Gates(Section):
    """What a version must reach to pass its evaluation."""

    floors: dict[str, Fraction] = Field({}, description="DATASET/METRIC: lowest value that passes")
    max_regression: Fraction = Field(0.0, description="loss against the champion, beyond its interval, that passes")


class Review(Section):
    """Who decides on a version, and why."""

    by: str | None = Field(None, description="who decides; by default the user of the operating system")
    why: str = Field("", description="the reason, where the command line has none")
    override: bool = Field(False, description="approve a version that has not passed its evaluation; needs a reason")
