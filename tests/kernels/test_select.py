"""Choosing is pure: the table's order, refusals in words, and the cost that decides what is worth timing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparsekern.kernels import KERNELS, Kernel, Problem, select
from sparsekern.kernels.cost import relative_cost
from sparsekern.kernels.table import BY_NAME

PROBLEM = Problem("linear", "cpu", "avx512", "float32", (16, 1), 64, 300, 784, 0.1)
GPU = {"device": "cuda", "arch": "sm_90", "features": ("triton",), "block": (64, 16)}
ON_CUDA = ["runs on the CPU, the weight is on cuda"] * 2


@pytest.mark.parametrize(
    ("change", "kernel", "refused"),
    [
        ({}, "cpu_linear", []),
        ({"dtype": "bfloat16"}, "cpu_linear", []),
        (
            {"dtype": "bfloat16", "block": (32, 2), "features": ("avx512_bf16",)},
            "cpu_linear_pairs",
            ["takes blocks (V, 1), got (32, 2)"],
        ),
        (
            {"block": (4, 4)},
            "reference_linear",
            ["takes blocks (V, 1), got (4, 4)", "takes bfloat16", "runs on CUDA"],
        ),
        (
            {"dtype": "float64"},
            "reference_linear",
            ["takes float32, bfloat16, float16, got float64", "takes bfloat16", "runs on CUDA"],
        ),
        ({"device": "cuda"}, "reference_linear", [*ON_CUDA, "needs Triton"]),
        ({**GPU, "arch": "sm_75"}, "reference_linear", [*ON_CUDA, "capability 8.0 or newer, got sm_75"]),
        ({**GPU, "block": (16, 1)}, "reference_linear", [*ON_CUDA, "sides of 16, 32, 64, 128, got (16, 1)"]),
        (GPU, "triton_linear", ON_CUDA),
    ],
)
def test_the_first_that_does_not_refuse(change: dict[str, object], kernel: str, refused: list[str]) -> None:
    choice = select(replace(PROBLEM, **change), KERNELS)  # type: ignore[arg-type]
    assert choice.kernel.name == kernel
    assert len(choice.refusals) == len(refused)
    for (_, reason), words in zip(choice.refusals, refused, strict=True):
        assert words in reason


def test_an_op_without_kernels_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no kernel .* op 'attention' is unknown"):
        select(replace(PROBLEM, op="attention"), KERNELS)


def test_a_backend_is_loaded_only_when_used() -> None:
    absent = Kernel("absent", "linear", "sparsekern.kernels.absent:linear", lambda problem: "not here")
    assert select(PROBLEM, (absent, *KERNELS)).refusals == (("absent", "not here"),)
    with pytest.raises(ImportError):
        absent.backend()


def test_cost_falls_with_density_and_rises_with_waste() -> None:
    def cost(kernel: str, block: tuple[int, int], density: float) -> float:
        return relative_cost(kernel, replace(PROBLEM, block=block, density=density))

    assert cost("cpu_linear", (16, 1), 0.1) < cost("cpu_linear", (16, 1), 0.5)
    assert cost("cpu_linear", (16, 1), 0.1) < cost("cpu_linear", (1, 1), 0.1)
    assert cost("reference_linear", (4, 4), 0.1) > 1
    half = replace(PROBLEM, dtype="bfloat16", block=(16, 2))
    assert relative_cost("cpu_linear_pairs", half) < relative_cost("cpu_linear", replace(half, block=(16, 1)))


def test_moving_the_outputs_counts_where_each_has_few_products() -> None:
    def cost(k: int, taps: int) -> float:
        problem = replace(PROBLEM, op="conv2d", k=k, taps=taps, block=(1, 1), density=0.1)
        return relative_cost("cpu_conv2d", problem)

    assert cost(27, 9) > 1 > cost(147, 49) > cost(2304, 9)
    assert cost(256, 1) < cost(256, 9)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({}, None),
        ({"block": (64, 64), "taps": 4, "k": 256}, "channels at one place of the kernel"),
        ({"k": 9 * 24}, "divide a group's 24 input channels, got (64, 16)"),
        ({"groups": 4, "n": 128}, "divide a group's 32 output channels, got (64, 16)"),
    ],
)
def test_what_convolutions_a_gpu_takes(change: dict[str, object], refused: str | None) -> None:
    conv = replace(PROBLEM, op="conv2d", k=9 * 32, n=256, taps=9, **GPU)  # type: ignore[arg-type]
    reason = BY_NAME["triton_conv2d"].refuse(replace(conv, **change))  # type: ignore[arg-type]
    assert reason is None if refused is None else reason is not None and refused in reason
