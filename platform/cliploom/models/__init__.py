"""What CLIP is: image and text towers, the paper's presets, weights in and out. Runs on torch alone."""

from cliploom.models.clip import CLIP, create, normalize_pixels
from cliploom.models.config import ModelConfig
from cliploom.models.presets import list_models, preset

__all__ = ["CLIP", "ModelConfig", "create", "list_models", "normalize_pixels", "preset"]
