"""KERNELS: every kernel, best first, the reference last. A new kernel is one file and one line here."""

from __future__ import annotations

from sparsekern.kernels.select import Kernel, Problem

_DTYPES = ("float32", "bfloat16", "float16")


def _refuse_cpu(problem: Problem) -> str | None:
    if problem.device != "cpu":
        return f"runs on the CPU, the weight is on {problem.device}"
    if problem.dtype not in _DTYPES:
        return f"takes {', '.join(_DTYPES)}, got {problem.dtype}"
    if problem.block[1] != 1:
        return f"takes blocks (V, 1), got {problem.block}: its inputs would not lie side by side"
    return None


def _refuse_pairs(problem: Problem) -> str | None:
    if problem.device != "cpu":
        return f"runs on the CPU, the weight is on {problem.device}"
    if problem.dtype != "bfloat16":
        return f"takes bfloat16, got {problem.dtype}"
    if problem.block[1] != 2 or problem.block[0] % 16:
        return f"takes blocks (V, 2), V a multiple of 16, got {problem.block}"
    if not {"amx_bf16", "avx512_bf16"} & set(problem.features):
        return f"needs AVX512_BF16, which this CPU or the ISA in use ({problem.arch}) lacks"
    return None


def _refuse_nothing(problem: Problem) -> str | None:
    return None


KERNELS = (
    Kernel("cpu_linear", "linear", "sparsekern.kernels.cpu:linear", _refuse_cpu),
    Kernel("cpu_linear_pairs", "linear", "sparsekern.kernels.cpu_pairs:linear", _refuse_pairs),
    Kernel("reference_linear", "linear", "sparsekern.kernels.reference:linear", _refuse_nothing),
)

BY_NAME = {kernel.name: kernel for kernel in KERNELS}
