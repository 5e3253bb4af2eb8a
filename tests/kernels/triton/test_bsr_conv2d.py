"""The Triton kernels of convolutions: shapes, strides, dtypes, layouts and gradients against float64."""

from __future__ import annotations

from collections.abc import Iterator

import conv_checks
import pytest
import torch
import truth
from triton_checks import DEVICE, DTYPES

from sparsekern.kernels.select import PackedConv
from sparsekern.kernels.table import BY_NAME
from sparsekern.kernels.triton import bsr_conv2d
from sparsekern.kernels.triton.launch import Launch

ONE, TWO, THREE = (1, 1), (2, 2), (3, 3)
Case = truth.ConvCase
CASES = (
    Case(16, 16, THREE, (16, 16), 0.0, map=ONE, padding=ONE),  # one pixel, padding all around
    Case(32, 32, THREE, (16, 16), 0.7, map=(6, 7), padding=ONE),
    Case(40, 32, THREE, (32, 16), 0.6, map=(7, 6), padding=ONE),  # ragged outputs
    Case(64, 32, THREE, (64, 32), 1.0, map=(4, 4), padding=ONE),  # all zero
    Case(64, 64, THREE, (64, 16), 0.7, map=(9, 8), stride=TWO, padding=ONE),
    Case(32, 32, THREE, (32, 32), 0.4, map=(9, 7), padding=TWO, dilation=TWO),
    Case(32, 16, (5, 3), (32, 16), 0.5, map=(7, 9), padding="same"),
    Case(32, 16, (4, 3), (16, 16), 0.5, map=(8, 9), padding="same", dilation=(1, 2)),
    Case(32, 16, (1, 3), (16, 16), 0.5, map=(4, 9), padding=(0, 1), stride=(1, 3)),
    Case(48, 64, ONE, (16, 32), 0.6, map=(5, 4)),  # a product
    Case(48, 64, ONE, (16, 32), 0.6, map=(5, 4), stride=TWO),
    Case(64, 64, THREE, (16, 16), 0.6, map=(5, 6), padding=ONE, groups=2),
)
LAUNCHES = {
    "default": None,
    "a step in a block": Launch("pointers", 32, 16, 4, 2, group=2),
    "a step over blocks": Launch("pointers", 16, 64, 4, 2, group=3),
    "boxes": Launch("tma", 16, 16, 4, 3),
    "boxes, weights first": Launch("tma", 64, 16, 4, 3, weights_first=True),
}
LAYOUTS = ("channels last", "default", "a corner of channels last")


class OnDevice:
    """The backend, with its launch; conv_checks makes tensors on the CPU."""

    def __init__(self, launch: Launch | None) -> None:
        self.launch = launch

    def pack(self, *weight: object) -> torch.Tensor:
        return bsr_conv2d.conv2d.pack(*weight)  # type: ignore[arg-type]

    def run(
        self, x: torch.Tensor, weight: PackedConv, _: None, residual: torch.Tensor | None
    ) -> torch.Tensor:
        parts = [p.to(DEVICE) if isinstance(p, torch.Tensor) else p for p in weight]
        after = None if residual is None else residual.to(DEVICE)
        if self.launch is None:
            return bsr_conv2d.conv2d.run(x.to(DEVICE), PackedConv(*parts), None, after).cpu()
        lying = bsr_conv2d._channels_last
        after = None if after is None else lying(after)
        y = bsr_conv2d.convolve(lying(x.to(DEVICE)), PackedConv(*parts), after, 0, self.launch).cpu()
        return y.contiguous(memory_format=conv_checks._format_of(x))


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", LAUNCHES)
def test_forward(name: str, case: Case) -> None:
    number = CASES.index(case)
    ran = 0
    for dtype in DTYPES if name == "default" else (DTYPES[number % 3],):
        terms = ((number + ran) % 2 == 0, (number + ran) % 3 == 1)
        if takes(name, case):
            layout = LAYOUTS[(number + ran) % 3]
            conv_checks.check_conv(OnDevice(LAUNCHES[name]), case, dtype, 1 + ran, layout, terms)  # type: ignore[arg-type]
            ran += 1
    assert ran or not takes(name, case)


def takes(name: str, case: Case) -> bool:
    if name != "default" and case.kernel == ONE and case.stride == ONE:
        return False  # a product, which has launches of its own
    return not name.startswith("boxes") or (case.stride == ONE and case.sparsity < 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case: Case) -> None:
    for dtype in DTYPES if case.stride == TWO else (torch.float32,):
        conv_checks.check_gradients(BY_NAME["triton_conv2d"], case, dtype, 2)
