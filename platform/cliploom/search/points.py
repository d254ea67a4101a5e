"""What a finished trial says of scale: how large the model, how many samples, how much compute, which error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One trial of a scaling search.

    Attributes:
        name: of the trial.
        model: preset and factor, as `RN50 x 4`.
        factor: of the compound rule, on the preset's compute of an image.
        parameters: of the network, token embeddings included.
        sample_flops: of training on one pair.
        samples: pairs seen.
        data: different pairs there were to see.
        error: what was measured at the end, on held-out pairs; lower is better.
        seed: of the run.
        batch: pairs a step; samples are whole batches.
    """

    name: str
    model: str
    factor: float
    parameters: int
    sample_flops: float
    samples: int
    data: int
    error: float
    seed: int = 0
    batch: int = 1

    @property
    def flops(self) -> float:
        """Of the whole training."""
        return self.sample_flops * self.samples

    @property
    def place(self) -> tuple[str, int, int]:
        """Equal for points that differ in their seed alone."""
        return self.model, self.samples, self.data


def held_out(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """The points that laws are fitted to, and those at the largest compute, which check them.

    Both are trained on the most data: what repeats fewer pairs ends higher, by laws of its own. A budget of compute is
    rounded down to whole batches, so that a point whose next batch would go beyond the largest compute is at it.
    """
    most = max(point.data for point in points)
    whole = [point for point in points if point.data == most]
    largest = max(point.flops for point in whole)
    last = [point for point in whole if (point.samples + point.batch) * point.sample_flops > largest]
    return [point for point in whole if point not in last], last


def repeated(points: Iterable[Point]) -> list[list[Point]]:
    """The points of each place that several seeds share."""
    places: dict[tuple[str, int, int], list[Point]] = {}
    for point in points:
        places.setdefault(point.place, []).append(point)
    return [found for found in places.values() if len(found) > 1]
