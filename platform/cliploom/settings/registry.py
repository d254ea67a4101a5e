"""MLflow, and what a model version must reach there."""

from __future__ import annotations

from pydantic import Field

from cliploom.settings.base import Fraction, Section


class Registry(Section):
    """MLflow: tracking and model versions."""

    uri: str | None = Field(
        None, description="MLflow server or sqlite:///FILE; by default MLFLOW_TRACKING_URI, else sqlite in run.storage"
    )
    experiment: str = Field("cliploom", description="MLflow experiment of runs")
    model_name: str | None = Field(
        None, pattern=r"^[^/:@']+$", description="registered model that training adds a version to"
    )


class Clean(Section):
    """What of runs may go."""

    days: float = Field(30, ge=0, description="since a run ended, before what it left may go")
    delete: bool = Field(False, description="delete what is listed")


class Gates(Section):
    """What a version must reach to pass its evaluation."""

    floors: dict[str, Fraction] = Field({}, description="DATASET/METRIC: what the interval's lower end must reach")
    max_regression: Fraction = Field(0.0, description="loss against the champion that passes; more fails where proven")
    max_overlap: Fraction | None = Field(None, description="share of a data set's samples that training may hold")
    max_overlap_gain: Fraction | None = Field(None, description="accuracy that those may add; more fails where proven")
    min_robustness: float | None = Field(
        None, ge=-1, le=1, description="effective robustness on each shift; less fails where proven"
    )


class Review(Section):
    """Who decides on a version, and why."""

    by: str | None = Field(None, description="who decides; by default the user of the operating system")
    why: str = Field("", description="the reason, where the command line has none")
    override: bool = Field(False, description="approve a version that has not passed its evaluation; needs a reason")
    html: str | None = Field(
        None, description="file that gets what list, show, compare or history would print, as a page"
    )
