"""The most that a device computes, for the share of it that training uses (MFU: model FLOPs utilisation)."""

from __future__ import annotations

import time

import torch

# Dense bf16, as NVIDIA's data sheets say; the first that the device's name holds counts.
BF16_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
}
_SIDE, _ROUNDS = 1024, 5  # of the matrix product; some 0.1 s on a slow core


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of this device: known for the GPUs of the table in bf16, else that of a matrix product, measured here.

    What is measured on CPUs is of the threads that this process has, beside whatever else runs.
    """
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for known, peak in BF16_PEAKS.items():
            if known in name:
                return peak
    side = _SIDE if device.type == "cpu" else 8 * _SIDE
    a, b = (torch.randn(side, side, device=device).to(_DTYPES[precision]) for _ in range(2))
    return 2 * side**3 / min(_seconds(a, b) for _ in range(_ROUNDS))


_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    began = time.perf_counter()
    product = a @ b
    float(product[0, 0])  # waits for the device
    return time.perf_counter() - began
