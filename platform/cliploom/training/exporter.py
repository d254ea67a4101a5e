"""A run's metrics for Prometheus, by Ray's metrics endpoint of the node that the job runs on, as `ray_cliploom_...`."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

GAUGES = {
    "step": "Steps done",
    "loss": "Of the last step that was reported",
    "samples_per_second": "Over all workers, since the report before",
    "step_seconds": "Mean of the steps since the report before",
    "mfu": "Share of the devices' peak FLOP/s that the model's FLOPs are",
    "goodput": "Productive time / wall time, over all attempts",
    "restarts_total": "Attempts after the first",  # Ray's counters can't tell of 0, from which a first one rises
}
COUNTERS = {
    "samples_total": "Samples trained on",
    "data_wait_seconds_total": "Seconds that the first worker has waited for data",
    "productive_seconds_total": "Seconds of steps, each once, without the waiting for data",
    "wall_seconds_total": "Seconds of the jobs that trained the run",
}


class Exporter:
    """Sets a run's metrics, tagged with its name."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._gauges = {name: Gauge(f"cliploom_{name}", text, tag_keys=("run",)) for name, text in GAUGES.items()}
        self._counters = {name: Counter(f"cliploom_{name}", text, tag_keys=("run",)) for name, text in COUNTERS.items()}
        self._counted = dict.fromkeys(COUNTERS, 0.0)

    def set(self, metrics: Mapping[str, float]) -> None:
        """Show these, of the names above; others are left out. A total never falls."""
        for name in GAUGES.keys() & metrics.keys():
            self._gauges[name].set(float(metrics[name]), self._tags)
        for name in COUNTERS.keys() & metrics.keys():
            if (more := metrics[name] - self._counted[name]) > 0:
                self._counters[name].inc(more, self._tags)
                self._counted[name] += more
