"""What the device can do at most, measured: a matrix product in bf16 and in fp32, and a copy in its memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.measure import seconds, show


@dataclass(frozen=True)
class Ceilings:
    """TFLOP/s of a matrix product, and bandwidth in GB/s (bytes read and written)."""

    device: torch.device
    fp32: float
    bf16: float
    bandwidth: float

    def training(self, mixed_precision: bool) -> float:
        """TFLOP/s of the precision that a trial trains in: bf16 needs a GPU."""
        return self.bf16 if mixed_precision and self.device.type == "cuda" else self.fp32


def measure_ceilings(device: torch.device, *, short: bool = False) -> Ceilings:
    """Multiply square matrices (fp32 without TF32) and copy an array, each large enough to fill the device."""
    size, values = (8192, 1 << 30) if device.type == "cuda" else (2048, 1 << 26)
    if short:
        size, values = 256, 1 << 20
    products = []
    for kind in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, size, size, device=device, dtype=kind)
        products.append(2 * size**3 / seconds(lambda a=a, b=b: a @ b, 5) / 1e12)
    source = torch.ones(values, device=device)
    target = torch.empty_like(source)
    copy = seconds(lambda: target.copy_(source), 5)
    return Ceilings(device, *products, 2 * source.nbytes / copy / 1e9)


def show_ceilings(ceilings: Ceilings) -> None:
    """Print them."""
    name = torch.cuda.get_device_name() if ceilings.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    columns = ("fp32, TFLOP/s", "bf16, TFLOP/s", "copy, GB/s")
    show("what the device can do at most", columns, {name: (ceilings.fp32, ceilings.bf16, ceilings.bandwidth)})
