"""What CLIP is: image and text towers, the paper's presets, weights in and out. Runs on torch alone."""

from cliploom.models.clip import CLIP, create, normalize_pixels
from cliploom.models.compound import compound
from cliploom.models.config import ModelConfig
from cliploom.models.flops import forward_flops
from cliploom.models.presets import list_models, preset
from cliploom.models.transformer import checkpoint_activations, compile_blocks

__all__ = [
    "CLIP",
    "ModelConfig",
    "checkpoint_activations",
    "compile_blocks",
    "compound",
    "create",
    "forward_flops",
    "list_models",
    "normalize_pixels",
    "preset",
]
