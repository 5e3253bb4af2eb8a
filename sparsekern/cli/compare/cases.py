"""CASES: what `sparsekern compare` times. No torch is imported here: the parser reads it."""

from __future__ import annotations

from typing import Any


def _linear(m: int, n: int, k: int, block: tuple[int, int], dtype: str = "float32") -> dict[str, Any]:
    return {"m": m, "n": n, "k": k, "block": block, "sparsity": 0.9, "dtype": dtype}


def _conv2d(m: int, k: int, n: int, side: int, block: tuple[int, int]) -> dict[str, Any]:
    return {**_linear(m, n, k, block), "kernel": 3, "map": side}


CASES: dict[str, dict[str, Any]] = {
    "linear": _linear(64, 768, 768, (1, 1)),
    "linear-16x1": _linear(64, 768, 768, (16, 1)),
    "linear-batch1": _linear(1, 1024, 2048, (1, 1)),
    "linear-bf16-16x2": _linear(64, 768, 768, (16, 2), "bfloat16"),
    "conv2d": _conv2d(1, 64, 64, 28, (1, 1)),
    "linear-8x1": _linear(64, 768, 768, (8, 1)),
    "linear-batch16": _linear(16, 768, 768, (1, 1)),
    "linear-batch1-16x1": _linear(1, 2048, 2048, (16, 1)),
    "linear-bf16": _linear(64, 768, 768, (1, 1), "bfloat16"),
    "conv2d-14": _conv2d(1, 128, 128, 14, (1, 1)),
    "conv2d-16x1": _conv2d(1, 64, 64, 28, (16, 1)),
    "tiny": _linear(2, 64, 64, (1, 1)),
}
"""name -> sizes as in the benchmarks: m rows or images, n outputs, k inputs; a convolution has the side of
its kernel and of its map too. 50 to 300 us a call, most of it in the kernel; "tiny" is for a look."""

PRESETS = {"quick": tuple(CASES)[:5], "full": tuple(name for name in CASES if name != "tiny")}
