"""The geometry of a CLIP model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from cliploom.errors import InputError

HEAD_WIDTH = 64
RESNET_STRIDE = 32
RESNET_EXPANSION = 32  # channels after the last stage, in units of the stem's
ACTIVATIONS = ("quick_gelu", "gelu")


@dataclass(frozen=True)
class ModelConfig:
    """What tells one CLIP model from another.

    Heads are not free: the paper gives each 64 channels, and a tower narrower than that has one.

    Attributes:
        embed_dim: width of the space that images and texts share.
        image_size: height and width of the input, in pixels.
        vision_layers: blocks of the vision transformer, or of a ResNet's four stages.
        vision_width: channels of the vision transformer, or of the ResNet's stem.
        patch_size: of the vision transformer, in pixels; None says that the image tower is a ResNet.
        text_width: channels of the text transformer.
        text_layers: blocks of the text transformer; 0 takes a text for the bag of its words.
        context_length: tokens of the longest text, start and end included.
        vocab_size: number of token ids.
        activation: of the transformers' MLPs: quick_gelu as OpenAI's, or gelu.
        logit_bias: whether a learned number is added to the scaled cosines, as the sigmoid loss needs it.

    Raises:
        InputError: the values make no model.
    """

    embed_dim: int
    image_size: int
    vision_layers: int | tuple[int, ...]
    vision_width: int
    patch_size: int | None
    text_width: int
    text_layers: int
    context_length: int = 77
    vocab_size: int = 49408
    activation: str = "quick_gelu"
    logit_bias: bool = False

    def __post_init__(self) -> None:
        stages = self.vision_layers if isinstance(self.vision_layers, tuple) else (self.vision_layers,)
        if len(stages) != (4 if self.is_resnet else 1):
            raise InputError(f"vision_layers is {self.vision_layers}: a ResNet takes four numbers, a ViT takes one")
        if self.activation not in ACTIVATIONS:
            raise InputError(f"activation is {self.activation!r}, not one of {', '.join(ACTIVATIONS)}")
        sizes = asdict(self) | {"vision_layers": min(stages)}
        for name in ("activation", "logit_bias", *(("patch_size",) if self.is_resnet else ())):
            del sizes[name]
        for name, value in sizes.items():
            if type(value) is not int or value < (0 if name == "text_layers" else 1):
                raise InputError(f"{name} is {value!r}, not a positive whole number")
        if self.image_size % self.stride:
            raise InputError(f"image_size {self.image_size} is no multiple of {self.stride}")
        for name, width in (("vision_width", self.feature_width), ("text_width", self.text_width)):
            if width > HEAD_WIDTH and width % HEAD_WIDTH:
                raise InputError(f"{name} gives {width} channels, which is no multiple of {HEAD_WIDTH}")

    @property
    def is_resnet(self) -> bool:
        """Whether the image tower is a ResNet."""
        return self.patch_size is None

    @property
    def stride(self) -> int:
        """Pixels between neighbouring positions of the last feature map."""
        return self.patch_size or RESNET_STRIDE

    @property
    def grid_size(self) -> int:
        """Positions along a side of the last feature map."""
        return self.image_size // self.stride

    @property
    def feature_width(self) -> int:
        """Channels of the last feature map."""
        return self.vision_width * RESNET_EXPANSION if self.is_resnet else self.vision_width

    @property
    def vision_heads(self) -> int:
        """Attention heads of the vision transformer, or of the ResNet's attention pooling."""
        return max(1, self.feature_width // HEAD_WIDTH)

    @property
    def text_heads(self) -> int:
        """Attention heads of the text transformer."""
        return max(1, self.text_width // HEAD_WIDTH)

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON holds."""
        layers = list(self.vision_layers) if isinstance(self.vision_layers, tuple) else self.vision_layers
        return asdict(self) | {"vision_layers": layers}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`.

        Raises:
            InputError: a field is missing or unknown, or its value makes no model.
        """
        known = [field.name for field in fields(cls)]
        required = [field.name for field in fields(cls) if field.default is MISSING]
        if missing := [name for name in required if name not in values]:
            raise InputError(f"the model's config lacks {missing[0]}")
        if unknown := [name for name in values if name not in known]:
            raise InputError(f"the model's config has an unknown field {unknown[0]}")
        layers = values["vision_layers"]
        return cls(**{**values, "vision_layers": tuple(layers) if isinstance(layers, list) else layers})
