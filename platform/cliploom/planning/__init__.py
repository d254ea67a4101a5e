"""What a run would take on machines that one has not got: a few formulas, which print what they assume.

`python -m cliploom.planning` answers; `step` has bytes and seconds of a step, `goodput` what failures cost, `plan` puts
them together. Nothing here touches a cluster.
"""

from cliploom.planning.goodput import goodput
from cliploom.planning.plan import Assumptions, Plan, plan
from cliploom.planning.step import GPUS, Gpu, Job, Step

__all__ = ["GPUS", "Assumptions", "Gpu", "Job", "Plan", "Step", "goodput", "plan"]
