"""A perceptual hash: 64 bits that change little when a picture is scaled, compressed or brightened."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

_SIDE, _KEPT = 32, 8
_DIGITS = 3  # of coefficients: what is zero but for rounding must be zero, or plain pictures have random bits


def phash(image: Image.Image) -> int:
    """The 64-bit DCT hash of a picture (Zauner 2010, "Implementation and benchmarking of perceptual image hash
    functions"): which of its 8 x 8 lowest frequencies are above their median, the lowest as the highest bit."""
    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    low: NDArray[np.float64] = np.round(dctn(grey)[:_KEPT, :_KEPT].ravel(), _DIGITS)
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")
