"""CLIP: an image tower and a text tower into one space (Radford et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliploom.models.config import ModelConfig
from cliploom.models.resnet import ModifiedResNet
from cliploom.models.transformer import Transformer
from cliploom.models.vit import VisionTransformer, project

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
LOGIT_SCALE_START = math.log(1 / 0.07)
LOGIT_SCALE_MAX = math.log(100)


class CLIP(nn.Module):
    """Images and texts as vectors whose cosine says how well they belong together.

    Parameter names are those of OpenAI's checkpoints. Parameters may be fp32, bf16 or float64, all of one dtype;
    embeddings come in at least fp32.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text_width
        self.visual = ModifiedResNet(config) if config.is_resnet else VisionTransformer(config)
        self.transformer = Transformer(width, config.text_layers, config.text_heads, causal=True)
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_START))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def set_grad_checkpointing(self, enabled: bool = True) -> None:
        """Keep each transformer block's input only, and compute the rest again in the backward pass.

        A ResNet keeps its activations.
        """
        for module in self.modules():
            if isinstance(module, Transformer):
                module.grad_checkpointing = enabled

    def encode_image(self, images: Tensor) -> Tensor:
        """Embeddings of normalised images.

        Args:
            images: float [B, 3, H, W], of the config's image_size.

        Returns:
            [B, D], fp32 (float64 where the model is), not normalised.
        """
        features = self.visual(images.to(self.text_projection.dtype))
        return features.to(torch.promote_types(features.dtype, torch.float32))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embeddings of texts.

        Columns past the longest text are cut off first. That changes nothing: attention is causal, and a text's
        embedding is read at its end token.

        Args:
            tokens: integer [B, L], L at most the context length; each row holds the end token, the highest id, once.

        Returns:
            [B, D], fp32 (float64 where the model is), not normalised.
        """
        return self._encode_text(tokens[:, : int(tokens.argmax(-1).max()) + 1])

    def forward(
        self, images: Tensor, tokens: Tensor | Sequence[Tensor], restore: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the loss is made of.

        Args:
            images: float [B, 3, H, W], normalised.
            tokens: integer [B, L], or several [B_i, L_i] that are encoded one after another, each as wide as its
                longest text needs.
            restore: int64 [B], puts the rows of the several back in the images' order.

        Returns:
            Image embeddings and text embeddings, [B, D], of unit length; the factor on their cosines, [1], at most
            100. All fp32 (float64 where the model is).
        """
        batches = [tokens] if isinstance(tokens, Tensor) else tokens
        text = torch.cat([self._encode_text(batch) for batch in batches])
        if restore is not None:
            text = text.index_select(0, restore)
        scale = self.logit_scale.to(text.dtype).clamp(max=LOGIT_SCALE_MAX).exp().reshape(1)
        return F.normalize(self.encode_image(images), dim=-1), F.normalize(text, dim=-1), scale

    def _encode_text(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.transformer(x)
        rows = torch.arange(tokens.shape[0], device=tokens.device)
        return project(self.ln_final(x[rows, tokens.argmax(-1)]), self.text_projection)


def create(config: ModelConfig, seed: int | None = None) -> CLIP:
    """A model with random weights, drawn as the paper's were.

    Args:
        config: its geometry.
        seed: makes the weights a function of config and seed, on the CPU, and leaves torch's generators as they were;
            without one they come from the global generator.
    """
    if seed is None:
        return CLIP(config)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return CLIP(config)


def normalize_pixels(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels as the models take them: (x / 255 - mean) / std of each channel.

    Args:
        pixels: uint8 [B, 3, H, W].
        dtype: of the result; it is rounded to that once, at the end.
    """
    exact = torch.promote_types(dtype, torch.float32)
    mean = torch.tensor(PIXEL_MEAN, dtype=exact, device=pixels.device)[:, None, None]
    std = torch.tensor(PIXEL_STD, dtype=exact, device=pixels.device)[:, None, None]
    return torch.addcmul(-mean / std, pixels.to(exact), 1 / (255 * std)).to(dtype)
