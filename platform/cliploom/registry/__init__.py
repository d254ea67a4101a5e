"""The registry: what MLflow keeps of runs, model versions, their cards and the decisions on them.

MLflow is imported here alone, and only when a function needs it: importing this package is cheap.
"""

from cliploom.registry.cards import card
from cliploom.registry.catalog import (
    Version,
    candidates,
    champion,
    check_model,
    download,
    record_evaluation,
    register,
    resolve,
    results,
    set_tags,
    versions,
)
from cliploom.registry.provenance import params, version_tags
from cliploom.registry.store import artifact_root, check, redact, store_uri
from cliploom.registry.tracking import Tracker, TrackingError

__all__ = [
    "Tracker",
    "TrackingError",
    "Version",
    "artifact_root",
    "candidates",
    "card",
    "champion",
    "check",
    "check_model",
    "download",
    "params",
    "record_evaluation",
    "redact",
    "register",
    "resolve",
    "results",
    "set_tags",
    "store_uri",
    "version_tags",
    "versions",
]
