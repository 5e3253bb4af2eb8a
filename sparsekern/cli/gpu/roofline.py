"""The least time that a GPU needs for a product, by counting: what it has to compute, what it has to move."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekern.kernels.select import PackedWeight


@dataclass(frozen=True)
class Peak:
    """What the vendor publishes: matrix products of 16-bit floats without sparsity, and memory bandwidth."""

    tflops: float
    gbps: float


PEAKS = (
    ("GH200", Peak(989.4, 4000)),
    ("H200", Peak(989.4, 4800)),
    ("H100 80GB HBM3", Peak(989.4, 3350)),
    ("H100 SXM", Peak(989.4, 3350)),
    ("H100 NVL", Peak(835.5, 3900)),
    ("H100 PCIe", Peak(756.5, 2000)),
    ("B200", Peak(2250, 8000)),
    ("A100-SXM4-80GB", Peak(312, 2039)),
    ("A100 80GB PCIe", Peak(312, 1935)),
    ("A100", Peak(312, 1555)),
)
"""A part of the device's name, the more special first -> Peak. NVIDIA's data sheets: A100 (2021), H100, H200
and GH200 (2023), HGX B200 (2025); rates that they give with 2:4 sparsity are halved."""


@dataclass(frozen=True)
class Work:
    """Operations on stored weights, and bytes if each input is read once and each output written once."""

    flops: int
    nbytes: int

    def limit_us(self, peak: Peak) -> float:
        """The larger of the two times, us."""
        return max(self.flops / (peak.tflops * 1e6), self.nbytes / (peak.gbps * 1e3))


def peak_of(device: str) -> Peak | None:
    """Of the device of that name; None if nothing is known about it."""
    return next((peak for words, peak in PEAKS if words in device), None)


def dense_work(m: int, n: int, k: int, itemsize: int) -> Work:
    """y = x Wᵀ + b with a dense W (n, k) and m rows."""
    return Work(2 * m * n * k, (m * k + n * k + m * n + n) * itemsize)


def sparse_work(m: int, weight: PackedWeight) -> Work:
    """The same with the stored blocks of ``weight``, and its own two indices."""
    stored, itemsize = weight.values.numel(), weight.values.element_size()
    index = 4 * (weight.crow.numel() + weight.col.numel())
    return Work(2 * m * stored, (m * weight.k + stored + m * weight.n + weight.n) * itemsize + index)
