"""KERNELS: every kernel, best first, the reference last. A new kernel is one file and one line here."""

from __future__ import annotations

from sparsekern.kernels.select import Kernel, Problem

# Below this many outputs a block leaves too many lanes idle: see docs/measured.md, "short vector blocks".
VECTOR_LEAST = 8


def _cpu_float32(problem: Problem) -> str | None:
    if problem.device != "cpu":
        return f"runs on the CPU, the weight is on {problem.device}"
    if problem.dtype != "float32":
        return f"takes float32, got {problem.dtype}"
    if problem.block[1] != 1:
        return f"takes blocks (V, 1), got {problem.block}: its inputs would not lie side by side"
    return None


def _refuse_vector(problem: Problem) -> str | None:
    reason = _cpu_float32(problem)
    if reason is None and problem.block[0] < VECTOR_LEAST:
        return f"wants blocks of at least {VECTOR_LEAST} outputs, got {problem.block}: lanes would idle"
    return reason


def _refuse_nothing(problem: Problem) -> str | None:
    return None


KERNELS = (
    Kernel("cpu_vector_linear", "linear", "sparsekern.kernels.cpu:vector_linear", _refuse_vector),
    Kernel("cpu_unstructured_linear", "linear", "sparsekern.kernels.cpu:unstructured_linear", _cpu_float32),
    Kernel("reference_linear", "linear", "sparsekern.kernels.reference:linear", _refuse_nothing),
)

BY_NAME = {kernel.name: kernel for kernel in KERNELS}
