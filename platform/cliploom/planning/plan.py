"""A run on so many GPUs: its throughput, what holds it back, the nodes that feed it, goodput and cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cliploom.planning.goodput import best_interval, goodput
from cliploom.planning.step import EFFICIENCY, SAMPLE_SECONDS, Gpu, Job, Step, batch_bytes, checkpoint_bytes, step


@dataclass(frozen=True)
class Assumptions:
    """What an answer rests on; each is printed with it.

    Attributes:
        efficiency: share of the GPU's peak in matrix products.
        sample_seconds: time of a sample on a GPU that the model's size does not change.
        decode_microseconds: of a core, for each sample, whatever its size.
        decode_nanoseconds: of a core, for each pixel of the image as it is stored.
        stored_side: pixels of the square of an image at rest.
        sample_bytes: of an image and caption at rest.
        ingest_cores: of an ingest node.
        ingest_bytes_per_second: that an ingest node reads from storage and sends on, together.
        gpus_per_node: which fail and are paid for together.
        node_failures_per_day: of a GPU node, preemptions included.
        restart_seconds: from a failure to the next step, a new node's start not included.
        replace_seconds: until a new node is there.
        save_seconds: for which a checkpoint holds training up; it is written beside training.
        gpu_hour, ingest_hour: price of a GPU, and of an ingest node, for an hour.
    """

    efficiency: float = EFFICIENCY
    sample_seconds: float = SAMPLE_SECONDS
    decode_microseconds: float = 386.0  # these two by tests/benchmarks/planning.py, on an AMD EPYC
    decode_nanoseconds: float = 5.6
    stored_side: int = 256
    sample_bytes: float = 25_000.0
    ingest_cores: int = 32
    ingest_bytes_per_second: float = 1.0e9
    gpus_per_node: int = 8
    node_failures_per_day: float = 0.05
    restart_seconds: float = 60.0
    replace_seconds: float = 480.0
    save_seconds: float = 3.0
    gpu_hour: float = 2.0
    ingest_hour: float = 0.6

    @property
    def decode_seconds(self) -> float:
        """Of a core, for a sample."""
        return self.decode_microseconds * 1e-6 + self.decode_nanoseconds * 1e-9 * self.stored_side**2


@dataclass(frozen=True)
class Plan:
    """The answer for one number of GPUs."""

    job: Job
    step: Step
    ingest_nodes: int
    interval: float
    goodput: float
    days: float
    cost: float
    checkpoint_bytes: float

    @property
    def samples_per_second(self) -> float:
        """While it trains."""
        return self.job.batch / self.step.seconds

    @property
    def bottleneck(self) -> str:
        """What most of a step goes to, given enough ingest nodes."""
        return max(self.step._asdict().items(), key=lambda part: part[1])[0]


def plan(job: Job, gpu: Gpu, samples: float, assumed: Assumptions) -> Plan:
    """What training on `samples` samples takes."""
    took = step(job, gpu, assumed.efficiency, assumed.sample_seconds)
    rate = job.batch / took.seconds
    by_cores = rate * assumed.decode_seconds / assumed.ingest_cores
    by_network = rate * (assumed.sample_bytes + batch_bytes(job) / job.batch) / assumed.ingest_bytes_per_second
    ingest = math.ceil(max(by_cores, by_network))
    nodes = math.ceil(job.gpus / assumed.gpus_per_node)
    failures, restart = nodes * assumed.node_failures_per_day / 24, assumed.restart_seconds + assumed.replace_seconds
    interval = best_interval(failures, assumed.save_seconds, restart)
    kept = goodput(failures, interval, assumed.save_seconds, restart)
    hours = samples / rate / kept / 3600
    cost = hours * (job.gpus * assumed.gpu_hour + ingest * assumed.ingest_hour)
    return Plan(job, took, ingest, interval, kept, hours / 24, cost, checkpoint_bytes(job.parameters))
