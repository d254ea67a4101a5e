"""The share of time that moves a run on, where nodes fail at random and a run goes on from its last checkpoint."""

from __future__ import annotations

import math


def goodput(failures_per_hour: float, interval: float, save: float, restart: float) -> float:
    """Seconds of training kept, of each second that passes.

    Failures come as a Poisson process, also while a checkpoint is saved or workers start. Of an attempt to get through
    an interval and its save, `interval + save` seconds without a failure are needed; each failure costs what the
    attempt had taken, and a restart, during which it may fail again (Daly 2006, equation 13).

    Args:
        failures_per_hour: of the whole run, which any failing node stops.
        interval: seconds of training between checkpoints.
        save: seconds for which a checkpoint holds training up.
        restart: seconds from a failure to the next step.
    """
    rate = failures_per_hour / 3600
    if rate == 0:
        return interval / (interval + save)
    took = math.exp(rate * restart) * math.expm1(rate * (interval + save)) / rate
    return interval / took


def best_interval(failures_per_hour: float, save: float, restart: float) -> float:
    """Seconds between checkpoints that make goodput greatest, to a hundredth; an hour at most."""
    candidates = [3600 * 0.99**i for i in range(700)]
    return max(candidates, key=lambda interval: goodput(failures_per_hour, interval, save, restart))
