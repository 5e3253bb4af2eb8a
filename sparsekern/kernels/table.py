"""KERNELS: every kernel, op by op; best first, the reference last. A new one is a file and a line here."""

from __future__ import annotations

from sparsekern.formats.block_sparse import INT32_MAX
from sparsekern.kernels.select import Kernel, Problem
from sparsekern.kernels.triton.launch import BLOCK_SIDES

_DTYPES = ("float32", "bfloat16", "float16")

MOST_TAPS = 256  # as csrc/cpu/panel_index.h has it


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


def _refuse_cpu_conv(problem: Problem) -> str | None:
    if problem.device != "cpu":
        return f"runs on the CPU, the weight is on {problem.device}"
    if problem.dtype not in _DTYPES:
        return f"takes {', '.join(_DTYPES)}, got {problem.dtype}"
    if problem.groups != 1:
        return f"takes one group, got {problem.groups}: its index knows no parts of the input's channels"
    if problem.taps > MOST_TAPS:
        return f"takes kernels of at most {MOST_TAPS} taps, got {problem.taps}"
    high, wide = problem.block
    if wide != 1 and (high != 1 or problem.k % wide):
        return (
            f"takes blocks (V, 1), and (1, S) where S divides the {problem.k} weights of an output, "
            f"got {problem.block}"
        )
    if max(problem.n, problem.k) > INT32_MAX:
        return f"counts in 32 bits, got a weight ({problem.n}, {problem.k})"
    return None


def _refuse_conv_pairs(problem: Problem) -> str | None:
    if reason := _refuse_pairs(problem):
        return reason
    if problem.groups != 1:
        return f"takes one group, got {problem.groups}"
    channels = problem.k // problem.taps
    if channels % 2 or problem.taps == 2:  # two columns of a kernel of two taps are one channel's
        return f"takes pairs of channels at one place of the kernel, got {channels} for {problem.taps} taps"
    return None


def _refuse_triton(problem: Problem) -> str | None:
    if problem.device != "cuda":
        return f"runs on CUDA devices, the weight is on {problem.device}"
    if "triton" not in problem.features:
        return "needs Triton, which is not installed: pip install triton"
    if int(problem.arch.removeprefix("sm_")) < 80:
        return f"needs a GPU of compute capability 8.0 or newer, got {problem.arch}"
    if problem.dtype not in _DTYPES:
        return f"takes {', '.join(_DTYPES)}, got {problem.dtype}"
    if not set(problem.block) <= set(BLOCK_SIDES):
        return f"takes blocks with sides of {', '.join(map(str, BLOCK_SIDES))}, got {problem.block}"
    return None


def _refuse_triton_conv(problem: Problem) -> str | None:
    if reason := _refuse_triton(problem):
        return reason
    (high, wide), taps, groups = problem.block, problem.taps, problem.groups
    channels = problem.k // taps
    if taps > 1 and wide % taps == 0:
        return f"takes blocks of channels at one place of the kernel, got {problem.block} for {taps} taps"
    if channels % wide:
        return f"takes blocks that divide a group's {channels} input channels, got {problem.block}"
    if groups > 1 and problem.n // groups % high:
        return (
            f"takes blocks that divide a group's {problem.n // groups} output channels, got {problem.block}"
        )
    return None


def _refuse_nothing(problem: Problem) -> str | None:
    return None


KERNELS = (
    Kernel("cpu_linear", "linear", "sparsekern.kernels.cpu:linear", _refuse_cpu),
    Kernel("cpu_linear_pairs", "linear", "sparsekern.kernels.cpu_pairs:linear", _refuse_pairs),
    Kernel("triton_linear", "linear", "sparsekern.kernels.triton.bsr_linear:linear", _refuse_triton),
    Kernel("reference_linear", "linear", "sparsekern.kernels.reference:linear", _refuse_nothing),
    Kernel("cpu_conv2d", "conv2d", "sparsekern.kernels.cpu_conv:conv2d", _refuse_cpu_conv),
    Kernel("cpu_conv2d_pairs", "conv2d", "sparsekern.kernels.cpu_conv_pairs:conv2d", _refuse_conv_pairs),
    Kernel("triton_conv2d", "conv2d", "sparsekern.kernels.triton.bsr_conv2d:conv2d", _refuse_triton_conv),
    Kernel("reference_conv2d", "conv2d", "sparsekern.kernels.reference:conv2d", _refuse_nothing),
)

BY_NAME = {kernel.name: kernel for kernel in KERNELS}
