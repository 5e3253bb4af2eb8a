"""Every kernel for convolutions, on every ISA, dtype, shape and layout, against torch's own convolution in
float64."""

from __future__ import annotations

import pytest
import torch
import truth
from conv_checks import (
    ALL,
    CONV2D,
    VARIANTS,
    Conv,
    check_conv,
    check_gradients,
    check_outputs,
    lying_as,
)

from sparsekern import _core
from sparsekern.cli.threads import torch_threads
from sparsekern.kernels import Kernel, Problem
from sparsekern.kernels.reference import conv2d as reference
from sparsekern.kernels.table import BY_NAME as TABLE
from sparsekern.kernels.table import MOST_TAPS

BY_NAME = {kernel.name: kernel for kernel in ALL}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("default", "channels last", "every other column", "a corner of channels last")
TERMS = ((True, True), (False, False), (True, False), (False, True))


@pytest.mark.parametrize("case", truth.CONV_CASES, ids=str)
@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "reference_conv2d"])
def test_forward(name: str, case: truth.ConvCase, isa: str) -> None:
    check_forward(BY_NAME[name], case)


@pytest.mark.parametrize("case", truth.CONV_CASES, ids=str)
def test_forward_of_the_reference(case: truth.ConvCase) -> None:
    check_forward(BY_NAME["reference_conv2d"], case)


def check_forward(kernel: Kernel, case: truth.ConvCase) -> None:
    """Batches, layouts and terms go round, so that each case sees each of them."""
    ran = 0
    for dtype in DTYPES:
        if kernel in Conv(case, dtype).kernels():
            for batch in truth.CONV_BATCHES if dtype is torch.float32 else (1, 3):
                layout, terms = LAYOUTS[ran % 4], TERMS[ran % 3 + ran // 4 % 2]
                check_conv(kernel.conv_backend(), case, dtype, batch, layout, terms)
                ran += 1
    problem = Problem("conv2d", "cpu", "", "float32", case.block, 8, *_shape(case), 0.5, (), case.groups)
    assert ran or kernel.refuse(problem), f"{kernel.name} takes {case} but was never run"


def _shape(case: truth.ConvCase) -> tuple[int, int]:
    return case.out, case.in_ // case.groups * case.kernel[0] * case.kernel[1]


@pytest.mark.parametrize("case", truth.CONV_CASES, ids=str)
@pytest.mark.parametrize("name", [kernel.name for kernel in CONV2D])
def test_gradients(name: str, case: truth.ConvCase) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        if BY_NAME[name] in Conv(case, dtype).kernels():
            for batch in (1, 3):
                check_gradients(BY_NAME[name], case, dtype, batch)


EDGES = (
    truth.ConvCase(61, 9, (3, 3), (8, 1), 0.8, map=(10, 7), padding=(1, 1)),
    truth.ConvCase(37, 13, (3, 3), (1, 1), 0.6, map=(11, 13), stride=(2, 1), padding=(2, 0)),
    truth.ConvCase(32, 7, (3, 2), (3, 1), 0.5, map=(5, 35), padding="same"),
    truth.ConvCase(90, 33, (1, 1), (24, 1), 0.7, map=(5, 7)),
    truth.ConvCase(20, 12, (3, 3), (1, 9), 0.8, map=(8, 9), padding=(1, 1)),
    truth.ConvCase(20, 7, (1, 5), (1, 1), 0.6, map=(1, 61), padding=(0, 2)),
    truth.ConvCase(37, 7, (1, 4), (8, 1), 0.6, map=(1, 90), stride=(1, 2), padding=(0, 3)),
)


@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.name)
def test_nothing_beyond_the_edges_is_read(kernel: Kernel, isa: str) -> None:
    """The padding of ragged blocks, and what lies before and after x, is NaN: it must not show."""
    for case in EDGES:
        conv = Conv(case, torch.float32)
        if kernel not in conv.kernels():
            continue
        beyond = conv.weight.block_row()[:, None] * case.block[0] + torch.arange(case.block[0]) >= case.out
        conv.weight.values[beyond] = float("nan")
        for batch in (1, 3):
            x = torch.randn(batch, case.in_, *case.map)
            for layout in (torch.contiguous_format, torch.channels_last):
                x = x.contiguous(memory_format=layout)
                around = torch.full((x.numel() + 200,), float("nan"))
                buried = around[100:-100].as_strided(x.shape, x.stride(), 100)
                buried.copy_(x)
                check_outputs(kernel.conv_backend(), conv, buried, with_residual=True)


@pytest.mark.parametrize("block", [(1, 1), (2, 1), (16, 1)], ids=str)
@pytest.mark.parametrize(("channels", "batch"), [(64, 1), (64, 3), (136, 1)])
def test_maps_larger_than_a_cache(channels: int, batch: int, block: tuple[int, int], isa: str) -> None:
    """From 2 MB on, a 1 x 1 convolution reads them where they lie; before and after x lies NaN."""
    case = truth.ConvCase(33, channels, (1, 1), block, 0.7, map=(64, 64))
    conv, x = Conv(case, torch.float32), torch.randn(batch, channels, 64, 64)
    around = torch.full((x.numel() + 200,), float("nan"))
    buried = around[100:-100].view(x.shape)
    buried.copy_(x)
    check_outputs(BY_NAME["cpu_conv2d"].conv_backend(), conv, buried, with_residual=True)


@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.name)
def test_no_images(kernel: Kernel) -> None:
    for case in EDGES:
        conv = Conv(case, torch.float32)
        if kernel in conv.kernels():
            backend = kernel.conv_backend()
            got = backend.run(torch.randn(0, case.in_, *case.map), conv.packed(backend))
            assert got.shape == truth.conv2d(conv.dense, torch.randn(0, case.in_, *case.map)).shape


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_activations_are_torchs(activation: str, isa: str) -> None:
    for case in EDGES:
        for dtype in (torch.float32, torch.bfloat16):
            conv = Conv(case, dtype)
            for kernel in conv.kernels():
                backend = kernel.conv_backend()
                for layout in LAYOUTS[:2]:
                    x = lying_as(conv.inputs(case, 2), layout)
                    residual = conv.residual(x)
                    got = backend.run(x, conv.packed(backend), activation, residual)
                    sums = truth.conv2d(conv.dense, x, residual)
                    want = getattr(torch.nn.functional, activation)(sums)
                    # As in test_every_kernel.py; the reference rounds before and after the residual too.
                    limit = 1.2 * truth.conv_bound(conv.dense, x, residual, dtype) + 3e-7 * sums.abs()
                    truth.assert_close(got, want, limit * (2 if backend is reference else 1))


def test_nan_reaches_what_sees_it_and_no_other(isa: str) -> None:
    case = truth.ConvCase(24, 5, (3, 3), (1, 1), 0.5, map=(9, 8), padding=(1, 1))
    conv = Conv(case, torch.float32)
    for kernel in conv.kernels():
        backend = kernel.conv_backend()
        x = conv.inputs(case, 2)
        x[1, 2, 4, 5] = float("nan")
        sees = torch.nn.functional.conv2d(x.isnan().float(), (conv.dense.weight != 0).float(), padding=1) > 0
        assert torch.equal(backend.run(x, conv.packed(backend)).isnan(), sees) or backend is reference
        x = conv.inputs(case, 2)
        values = conv.weight.values
        conv.weight.values[7] = float("nan")
        hit = int(conv.weight.block_row()[7])
        got = backend.run(x, conv.packed(backend))
        others = [channel for channel in range(24) if channel != hit]
        assert got[:, others].isfinite().all() and got[:, hit].isnan().any()
        conv.weight.values[7] = 1.0
        assert values is conv.weight.values


@pytest.mark.parametrize("case", EDGES, ids=str)
def test_threads_and_repeats_give_the_same_bits(case: truth.ConvCase, isa: str) -> None:
    conv = Conv(case, torch.float32)
    for layout in LAYOUTS[:2]:
        x = lying_as(conv.inputs(case, 40), layout)  # enough work for several threads
        for kernel in conv.kernels()[:-1]:  # all but the reference
            backend = kernel.conv_backend()
            packed = conv.packed(backend)
            want = backend.run(x, packed)
            for count in (1, 2, 4):
                with torch_threads(count):
                    for _ in range(2):
                        assert torch.equal(backend.run(x, packed), want)


def test_a_write_to_the_values_shows_in_the_next_call() -> None:
    """Kernels over panels multiply with a copy of the values."""
    for case in EDGES:
        conv = Conv(case, torch.float32)
        x = conv.inputs(case, 2)
        for kernel in conv.kernels():
            backend = kernel.conv_backend()
            packed = conv.packed(backend)
            before = backend.run(x, packed._replace(bias=None))
            conv.weight.values.data.mul_(2)
            assert torch.equal(backend.run(x, packed._replace(bias=None)), 2 * before)


def test_what_is_not_for_it_is_refused_in_words() -> None:
    def refusal(**changes: object) -> str | None:
        fields = {"op": "conv2d", "device": "cpu", "arch": "", "dtype": "float32", "block": (1, 1)}
        fields |= {"m": 8, "n": 64, "k": 144, "density": 0.1} | changes
        return TABLE["cpu_conv2d"].refuse(Problem(**fields))  # type: ignore[arg-type]

    for fine in ({}, {"block": (1, 9)}, {"block": (48, 1)}, {"dtype": "bfloat16"}):
        assert refusal(**fine) is None
    for changes, words in (
        ({"device": "cuda"}, "cuda"),
        ({"dtype": "float64"}, "got float64"),
        ({"groups": 4}, "takes one group, got 4"),
        ({"block": (4, 4)}, r"(1, S) where S divides the 144 weights of an output, got (4, 4)"),
        ({"block": (1, 7)}, "got (1, 7)"),
        ({"taps": 400}, "at most 256 taps, got 400"),
        ({"k": 2**31}, "32 bits"),
    ):
        assert words in (refusal(**changes) or "")


def test_the_table_knows_the_extensions_limits() -> None:
    assert _core.MOST_TAPS == MOST_TAPS
    assert [kernel.name for kernel in VARIANTS[:2]] == [f"cpu_conv2d:{name}" for name in _core.CONV_KERNELS]
    assert [_core.choose_conv2d(v) for v in (1, 2, 3, 4, 16)] == ["panels"] * 3 + ["rows"] * 2
