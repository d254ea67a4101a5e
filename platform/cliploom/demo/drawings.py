"""Drawing SVG pictures, and telling which of them are the same drawing."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

SIZE = 64  # pixels of a side
NEAR_BITS = 10  # of the 64-bit hash: within so many, pixels decide
NEAR_DIFFERENCE = 8.0  # mean absolute difference of grey levels (0-255) below which two drawings are the same
_CHUNK = 512


def svg(icons: dict[str, Any], name: str) -> str:
    """The icon `name` of an Iconify set as an SVG document, square, on white."""
    icon = icons["icons"][name]
    left, top, width, height = (
        float(icon.get(key, icons.get(key, default)))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="{box}">{icon["body"]}</svg>'
    )


def draw(documents: Sequence[str]) -> list[bytes]:
    """Each SVG document as a PNG of SIZE x SIZE pixels."""
    import resvg_py

    return [
        resvg_py.svg_to_bytes(svg_string=one, width=SIZE, height=SIZE, background="white", skip_system_fonts=True)
        for one in documents
    ]


def pixels(png: bytes) -> np.ndarray:
    """A drawing as uint8 [SIZE, SIZE, 3]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def difference_hash(drawing: np.ndarray) -> int:
    """The 64-bit dHash of uint8 [H, W, 3]: whether grey falls or not between neighbours of a 9 x 8 thumbnail."""
    small = np.asarray(Image.fromarray(drawing).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(small[:, :-1] > small[:, 1:]).tobytes())


def same_drawings(drawings: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs (i, j) where drawing i is, but for details, the other j.

    Equal perceptual hashes are the same drawing, whatever the colours; of near ones the pixels decide.

    Args:
        drawings: uint8 [N, SIZE, SIZE, 3].
        others: uint8 [M, SIZE, SIZE, 3].
    """
    hashes, other_hashes = _hashes(drawings), _hashes(others)
    means, other_means = _means(drawings), _means(others)
    for start in range(0, len(hashes), _CHUNK):
        bits = np.bitwise_count(hashes[start : start + _CHUNK, None] ^ other_hashes[None])
        rows, columns = np.nonzero(bits <= NEAR_BITS)
        # Averages over tiles differ by no more than the pixels do: they spare most of the exact comparisons.
        least = np.abs(means[start + rows] - other_means[columns]).mean(1)
        for i, j in zip(rows[least < NEAR_DIFFERENCE], columns[least < NEAR_DIFFERENCE], strict=True):
            if difference(drawings[start + i], others[j]) < NEAR_DIFFERENCE:
                yield int(start + i), int(j)
        for i, j in zip(*np.nonzero(bits == 0), strict=True):
            yield int(start + i), int(j)


def _hashes(drawings: np.ndarray) -> np.ndarray:
    return np.array([difference_hash(one) for one in drawings], dtype=np.uint64)


def _means(drawings: np.ndarray) -> np.ndarray:
    """The mean of each of 8 x 8 tiles and colours, float32 [N, 192]."""
    tiles = drawings.reshape(len(drawings), 8, SIZE // 8, 8, SIZE // 8, 3)
    return tiles.mean((2, 4), dtype=np.float32).reshape(len(drawings), -1)


def difference(drawing: np.ndarray, other: np.ndarray) -> float:
    """The mean absolute difference of two uint8 drawings, in levels."""
    return float(np.abs(drawing.astype(np.int16) - other).mean())
