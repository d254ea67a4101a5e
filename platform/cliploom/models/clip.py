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
SIGMOID_SCALE_START, SIGMOID_BIAS_START = math.log(10), -10.0  # Zhai et al. 2023, "Sigmoid Loss"


class CLIP(nn.Module):
    """Images and texts as vectors whose cosine says how well they belong together.

    Parameter names are those of OpenAI's checkpoints. Parameters may be fp32, bf16 or float64, all of one dtype;
    embeddings come in at least fp32.

    Attributes:
        config: its geometry.
        exact_scalars: fp32, the values of logit_scale and logit_bias where the parameters are rounded copies of them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.exact_scalars: Tensor | None = None
        self._image_locked = False
        width = config.text_width
        self.visual = ModifiedResNet(config) if config.is_resnet else VisionTransformer(config)
        if config.text_layers:
            self.transformer = Transformer(
                width, config.text_layers, config.text_heads, causal=True, activation=config.activation
            )
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        if config.text_layers:
            self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
            nn.init.normal_(self.positional_embedding, std=0.01)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(SIGMOID_SCALE_START if config.logit_bias else LOGIT_SCALE_START))
        if config.logit_bias:
            self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_BIAS_START))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def lock_image(self) -> None:
        """Leave the image tower as it is, BatchNorm's statistics too (Zhai et al. 2022, "LiT")."""
        self.visual.requires_grad_(False)
        self._image_locked = True
        self.train(self.training)

    def lock_text(self) -> None:
        """Leave the text tower as it is."""
        for name, parameter in self.named_parameters():
            if not name.startswith(("visual.", "logit_")):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> CLIP:
        """As `nn.Module.train`; a locked image tower stays in evaluation mode."""
        super().train(mode)
        if self._image_locked:
            self.visual.eval()
        return self

    def encode_image(self, images: Tensor, patches: Tensor | None = None) -> Tensor:
        """Embeddings of normalised images.

        Args:
            images: float [B, 3, H, W], of the config's image_size.
            patches: int64 [B, P], the patches that a vision transformer sees; all by default.

        Returns:
            [B, D], fp32 (float64 where the model is), not normalised.
        """
        images = images.to(self.text_projection.dtype)
        features = self.visual(images) if patches is None else self.visual(images, patches)
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
        return self._encode_texts([tokens[:, : int(tokens.argmax(-1).max()) + 1]])

    def forward(
        self,
        images: Tensor,
        tokens: Tensor | Sequence[Tensor],
        restore: Tensor | None = None,
        patches: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the loss is made of.

        Args:
            images: float [B, 3, H, W], normalised.
            tokens: integer [B, L], or several [B_i, L_i] that are encoded one after another, each as wide as its
                longest text needs.
            restore: int64 [B], puts the rows of the several back in the images' order.
            patches: int64 [B, P], the patches that a vision transformer sees; all by default.

        Returns:
            Image embeddings and text embeddings, [B, D], of unit length; the factor on their cosines, at most 100,
            and what is added to them where there is a bias, [1] or [2]. All fp32 (float64 where the model is).
        """
        text = self._encode_texts([tokens] if isinstance(tokens, Tensor) else tokens)
        if restore is not None:
            text = text.index_select(0, restore)
        image = F.normalize(self.encode_image(images, patches), dim=-1)
        return image, F.normalize(text, dim=-1), self._scalars(text.dtype)

    def _encode_texts(self, batches: Sequence[Tensor]) -> Tensor:
        """Embeddings of several batches of texts, each as wide as its longest, [sum of B_i, D].

        What has the size of the vocabulary is done once for all of them: its gradient is large.
        """
        lengths = [batch.numel() for batch in batches]
        embedded = self.token_embedding(torch.cat([batch.flatten() for batch in batches])).split(lengths)
        pooled = [self._pool(*given) for given in zip(batches, embedded, strict=True)]
        return project(self.ln_final(torch.cat(pooled)), self.text_projection)

    def _pool(self, tokens: Tensor, embedded: Tensor) -> Tensor:
        """What is known of each text, [B, C], of tokens [B, L] and their embeddings [B x L, C]."""
        end = tokens.argmax(-1)
        x = embedded.view(*tokens.shape, -1)
        if self.config.text_layers:
            return self.transformer(x + self.positional_embedding[: tokens.shape[1]], end)[:, 0]
        column = torch.arange(tokens.shape[1], device=tokens.device)
        words = ((column > 0) & (column < end[:, None])).to(x.dtype)
        return torch.einsum("bl,blc->bc", words / words.sum(1, keepdim=True).clamp(min=1), x)

    def _scalars(self, dtype: torch.dtype) -> Tensor:
        raw = self.logit_scale.to(dtype).reshape(1)
        if self.config.logit_bias:
            raw = torch.cat([raw, self.logit_bias.to(dtype).reshape(1)])
        if self.exact_scalars is not None:
            raw = raw + (self.exact_scalars - raw).detach()
        return torch.cat([raw[:1].clamp(max=LOGIT_SCALE_MAX).exp(), raw[1:]])


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
