"""What a device computes at most: the share of it that training uses is its MFU (model FLOPs utilisation)."""

from __future__ import annotations

import time

import torch

from cliploom.settings.training import Train

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


def cpus_have_bf16() -> bool:
    """Whether this machine's CPUs have instructions for bf16; without, it takes some twenty times as long as fp32."""
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)


def warning(train: Train) -> str | None:
    """What is to be said, before a run starts on this machine, of the speed that its precision has here."""
    if train.precision == "fp32" or train.gpus_per_worker or cpus_have_bf16():
        return None
    return "the CPUs here have no instructions for bf16: train.precision=fp32 is many times as fast"


_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    began = time.perf_counter()
    product = a @ b
    float(product[0, 0])  # waits for the device
    return time.perf_counter() - began
