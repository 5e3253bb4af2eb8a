"""bfloat16 in blocks (V, 2): who runs it, and what else is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparsekern.kernels import KERNELS, Problem, cpu, select
from sparsekern.nn import SparseLinear


@pytest.mark.skipif(not cpu.features(), reason="needs AVX512_BF16")
def test_a_layer_runs_on_the_instructions_for_pairs() -> None:
    linear = torch.nn.Linear(96, 64).bfloat16()
    with torch.no_grad():
        linear.weight[:, 32:] = 0
    layer = SparseLinear.from_dense(linear, block=(16, 2))
    x = torch.randn(20, 96, dtype=torch.bfloat16)
    assert layer.kernel == "cpu_linear_pairs" and layer.variant(20) in cpu.features()
    torch.testing.assert_close(layer(x), linear(x))  # with a gradient
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), linear(x))
    layer(x).float().sum().backward()
    assert layer.values.grad is not None and layer.values.grad.shape == layer.values.shape
    with cpu.using_isa("scalar"):
        other = SparseLinear.from_dense(linear, block=(16, 2))
        assert other.kernel == "reference_linear"
        assert "AVX512_BF16" in dict(other.refusals)["cpu_linear_pairs"]


def test_what_is_not_for_it_is_refused_in_words() -> None:
    def refusal(**changes: object) -> str:
        problem = Problem("linear", "cpu", "avx512", "bfloat16", (32, 2), 8, 64, 64, 0.1, ("avx512_bf16",))
        choice = select(replace(problem, **changes), KERNELS)  # type: ignore[arg-type]
        return dict(choice.refusals).get("cpu_linear_pairs", "")

    assert refusal() == ""
    assert "float32" in refusal(dtype="float32")
    assert "(24, 2)" in refusal(block=(24, 2))
    assert "(16, 4)" in refusal(block=(16, 4))
    assert "AVX512_BF16" in refusal(features=())
    assert "cuda" in refusal(device="cuda")


@pytest.mark.skipif(not cpu.features(), reason="needs AVX512_BF16")
def test_errors_name_what_came() -> None:
    op = torch.ops.sparsekern.cpu_linear_pairs.default
    values = torch.randn(3, 16, 2, dtype=torch.bfloat16)
    crow, col, none = (torch.tensor(words, dtype=torch.int32) for words in ([0, 2, 3], [0, 1, 1], []))
    x = torch.randn(5, 4, dtype=torch.bfloat16)

    def call(x: torch.Tensor = x, values: torch.Tensor = values, n: int = 32, kernel: int = -1) -> None:
        op(x, values, None, crow, col, none, n, 4, kernel, 0)

    call()
    for words, wrong in (
        (r"x: expected \(..., 4\)", {"x": x[:, :3]}),
        ("torch.bfloat16", {"x": x.float(), "values": values.float()}),
        (r"\(nnz, V, 2\), V a multiple of 16, got \(3, 8, 4\)", {"values": values.reshape(3, 8, 4)}),
        ("64 outputs", {"n": 64}),
        ("got 7", {"kernel": 7}),
    ):
        with pytest.raises(ValueError, match=words):
            call(**wrong)  # type: ignore[arg-type]
