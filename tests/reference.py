"""Access to the independent implementations that tests compare against."""

from __future__ import annotations

import functools
from types import ModuleType

import torch

# open_clip imports torchvision, and torchvision's Python code registers shapes for operators that its compiled library
# declares. That library needs the CUDA build of torch; beside the CPU build it does not load, so the operators are
# declared here. The declarations live as long as this object.
_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.cache
def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _SIGNATURE)
    return library


def import_torchvision() -> ModuleType:
    """torchvision, also beside the CPU build of torch: transforms of PIL images work, compiled operators don't."""
    _declare_operators()
    import torchvision

    return torchvision


def import_open_clip() -> ModuleType:
    """open_clip, also beside the CPU build of torch."""
    import_torchvision()
    import open_clip

    return open_clip
