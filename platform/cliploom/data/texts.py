"""The captions of a data set as token ids, without its images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cliploom.data.corpus import Corpus
from cliploom.data.manifest import Manifest
from cliploom.data.mixture import Mixture
from cliploom.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

_BATCH = 4096  # captions


class Texts:
    """Batches of token ids, int64 [B, L], of all captions of a manifest's samples; each iteration reads them anew.

    Args:
        manifest: of the data set, or a mixture.
        tokenizer: of the captions.

    Attributes:
        corpus: that of the iteration begun last, which counts captions and what can't be read.
    """

    def __init__(self, manifest: Manifest | Mixture, tokenizer: Tokenizer) -> None:
        self._manifest, self._tokenizer = manifest, tokenizer
        self.corpus = Corpus(manifest)

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.corpus = Corpus(self._manifest)
        captions = iter(self.corpus)
        while batch := list(itertools.islice(captions, _BATCH)):
            yield self._tokenizer(batch)
