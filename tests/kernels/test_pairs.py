"""bfloat16 in blocks (V, 2): who runs it, and what else is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import truth

from sparsekern.kernels import KERNELS, Problem, cpu, select
from sparsekern.nn import SparseConv1d, SparseConv2d, SparseLinear


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


# ---- of convolutions: channels (c, c + 1) at one place of the kernel

CONV = truth.ConvCase(64, 12, (3, 3), (32, 2), 0.7, map=(9, 8), stride=(2, 1), padding=(1, 1))


@pytest.mark.skipif(not cpu.features(), reason="needs AVX512_BF16")
def test_a_convolution_runs_on_them_too() -> None:
    conv = CONV.conv(torch.bfloat16)
    layer = SparseConv2d.from_dense(conv, block=(32, 2))
    assert layer.kernel == "cpu_conv2d_pairs" and layer.variant(20) in cpu.features()
    assert torch.equal(layer.weight, conv.weight)
    for x in (torch.randn(2, 12, 9, 8).bfloat16(), torch.randn(12, 9, 8).bfloat16()):
        want, limit = truth.conv2d(conv, x), truth.conv_bound(conv, x, None, torch.bfloat16)
        truth.assert_close(layer(x), want, limit)  # with a gradient
        with torch.inference_mode():
            truth.assert_close(layer(x), want, limit)
    with cpu.using_isa("scalar"):
        other = SparseConv2d.from_dense(conv, block=(32, 2))
        assert other.kernel == "reference_conv2d"
        assert "AVX512_BF16" in dict(other.refusals)["cpu_conv2d_pairs"]


@pytest.mark.skipif(not cpu.features(), reason="needs AVX512_BF16")
def test_a_convolution_of_lines_too() -> None:
    line = torch.nn.Conv1d(8, 32, 3, padding=1, dtype=torch.bfloat16).requires_grad_(False)
    line.weight[16:, 2:] = 0
    layer, x = SparseConv1d.from_dense(line, block=(16, 2)), torch.randn(3, 8, 37).bfloat16()
    assert layer.kernel == "cpu_conv2d_pairs" and layer(x).stride() == line(x).stride()
    truth.assert_close(layer(x), truth.conv2d(line, x), truth.conv_bound(line, x, None, torch.bfloat16))


def test_which_convolutions_are_refused() -> None:
    def refusal(**changes: object) -> str:
        fields = {"op": "conv2d", "device": "cpu", "arch": "avx512", "dtype": "bfloat16", "block": (16, 2)}
        fields |= {"m": 8, "n": 64, "k": 72, "density": 0.1, "features": ("amx_bf16",), "taps": 9} | changes
        return dict(select(Problem(**fields), KERNELS).refusals).get("cpu_conv2d_pairs", "")  # type: ignore[arg-type]

    assert refusal() == refusal(taps=1) == ""
    assert "float32" in refusal(dtype="float32") and "(16, 4)" in refusal(block=(16, 4))
    assert "one group, got 4" in refusal(groups=4) and "AVX512_BF16" in refusal(features=())
    assert "got 7 for 9 taps" in refusal(k=63) and "got 36 for 2 taps" in refusal(taps=2)


@pytest.mark.skipif(not cpu.features(), reason="needs AVX512_BF16")
def test_the_op_of_convolutions_is_torchs_and_names_what_came() -> None:
    layer = SparseConv2d.from_dense(CONV.conv(torch.bfloat16), block=(32, 2))
    op, x = torch.ops.sparsekern.cpu_conv2d_pairs.default, torch.randn(2, 9, 8, 12).bfloat16()
    sizes = list(layer.geometry_of(layer)[:-1])
    good = [x, layer.values.detach(), None, layer.crow, layer.col, *sizes, -1, 0]
    torch.library.opcheck(op, tuple(good))
    torch.library.opcheck(op, (*good[:2], layer.bias, *good[3:]))
    for at, wrong, words in (
        (0, x[..., :10].contiguous(), r"x: expected contiguous torch.bfloat16 \(N, H, W, 12\)"),
        (0, x.float(), "even number of channels, got torch.float32"),
        (1, layer.values.detach().float(), "one dtype"),
        (1, layer.values.detach().view(-1, 16, 4), r"V a multiple of 16, got"),
        (2, torch.ones(3), "bias"),
        (5, 2**40, "channels, kernel, stride"),
        (5, 128, "128 outputs"),
        (9, 0, "stride"),
        (11, -1, "padding in"),
        (16, 9, "fits into x"),
        (17, 7, "got 7"),
    ):
        arguments = list(good)
        arguments[at] = wrong
        with pytest.raises(ValueError, match=words):
            op(*arguments)
