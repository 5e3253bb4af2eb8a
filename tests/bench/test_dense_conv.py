"""Dense rivals of a convolution: right answers in every layout and geometry, refusals in words."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsekern.bench import DENSE_CONV2D, dense_conv

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}
GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 1, "bias": False},
    {"kernel_size": (3, 2), "stride": 2, "padding": (1, 0)},
    {"kernel_size": 3, "dilation": 2, "padding": "same"},
    {"kernel_size": 5, "padding": "valid"},
    {"kernel_size": 3, "groups": 4},
    {"kernel_size": (2, 3), "padding": "same"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
]


def problem(dtype: torch.dtype = torch.float32, **geometry: Any) -> tuple[nn.Conv2d, Tensor]:
    conv = nn.Conv2d(8, 12, **({"kernel_size": 3, "padding": 1} | geometry)).to(dtype)
    with torch.no_grad():
        conv.weight *= torch.rand_like(conv.weight) > 0.5
    return conv, torch.randn(2, 8, 13, 11).to(dtype)


def truth(conv: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(conv).double()(x.double())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", DENSE_CONV2D)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_rivals_compute_a_convolution(
    name: str, dtype: torch.dtype, geometry: dict[str, Any], layout: torch.memory_format
) -> None:
    conv, x = problem(dtype, **geometry)
    x = x.contiguous(memory_format=layout)
    call = DENSE_CONV2D[name](conv, x)
    if isinstance(call, str):
        assert len(call) > 10
        return
    smaller = x[:1, :, :9]
    with torch.no_grad():
        for given in (x, smaller, x):
            got = call(given).to_dense()
            assert got.dtype is dtype
            tolerance = TOLERANCE[dtype]
            torch.testing.assert_close(got.double(), truth(conv, given), rtol=tolerance, atol=tolerance)


def test_each_rival_serves_the_plain_case_here_or_says_that_it_is_not_here() -> None:
    conv, x = problem()
    here = {name: prepare(conv, x) for name, prepare in DENSE_CONV2D.items()}
    refusals = {name: call for name, call in here.items() if isinstance(call, str)}
    assert refusals.pop("contiguous") == "the same as torch: x and the weight have this memory format already"
    assert all(re.search("without oneDNN|no prepacked|no NNPACK", why) for why in refusals.values())
    both = conv.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    refusal = DENSE_CONV2D["channels_last"](*both)
    assert isinstance(refusal, str) and refusal.startswith("the same as torch")
    assert not isinstance(DENSE_CONV2D["contiguous"](*both), str)


def test_what_a_rival_converts_it_converts_before(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = problem()
    call = DENSE_CONV2D["channels_last"](conv, x)
    assert not isinstance(call, str)
    seen: list[Tensor] = []
    convolve = dense_conv._convolve

    def spy(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        seen.append(x)
        return convolve(conv, weight, bias, x)

    monkeypatch.setattr(dense_conv, "_convolve", spy)
    call = DENSE_CONV2D["channels_last"](conv, x)
    assert not isinstance(call, str)
    for given in (x, x, x.clone()):
        call(given)
    assert seen[0] is seen[1] and seen[2] is not seen[1]
    assert all(given.is_contiguous(memory_format=torch.channels_last) for given in seen)


@pytest.mark.parametrize(
    ("rivals", "given", "reason"),
    [
        (DENSE_CONV2D, lambda: (problem()[0], torch.randn(8, 13, 11)), r"takes inputs \(N, 8, H, W\), not"),
        (
            DENSE_CONV2D,
            lambda: (problem()[0], torch.randn(2, 7, 13, 11)),
            r"takes inputs \(N, 8, H, W\), not",
        ),
        (
            DENSE_CONV2D,
            lambda: (problem()[0], torch.randn(2, 8, 13, 11).double()),
            "x is torch.float64 on cpu",
        ),
        (
            DENSE_CONV2D,
            lambda: (problem()[0], torch.randn(0, 8, 13, 11)),
            r"nothing to compute for x \(0, 8,",
        ),
        (
            ["onednn", "onednn_blocked", "nnpack"],
            lambda: problem(padding_mode="circular"),
            "not with padding_mode 'circular'",
        ),
        (
            ["onednn", "onednn_blocked", "nnpack"],
            lambda: problem(kernel_size=(3, 4), padding="same"),
            r"which 'same' of a kernel \(3, 4\) does not",
        ),
        (["onednn", "onednn_blocked"], lambda: problem(torch.float64), "not torch.float64"),
        (["nnpack"], lambda: problem(torch.bfloat16), "takes float32 on the cpu, not torch.bfloat16 on cpu"),
        (["nnpack"], lambda: problem(groups=4), "one group without dilation, not 4"),
        (["nnpack"], lambda: problem(dilation=2), r"not 1 with dilation \(2, 2\)"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(rivals: Any, given: Any, reason: str) -> None:
    if not torch.backends.mkldnn.is_available():
        rivals = [name for name in rivals if "onednn" not in name]
    for name in rivals:
        refusal = DENSE_CONV2D[name](*given())
        assert isinstance(refusal, str) and re.search(reason, refusal), (name, refusal)


@pytest.mark.parametrize("name", ["onednn", "onednn_blocked", "nnpack"])
def test_a_wrong_rival_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = problem()
    if isinstance(DENSE_CONV2D[name](conv, x), str):
        pytest.skip("not on this machine")

    class Wrong(dense_conv.InLayout):
        def __call__(self, x: Tensor) -> Tensor:
            y = super().__call__(x).to_dense().clone()
            y[1, 5, 6, 7] += 0.01
            return y

    monkeypatch.setattr(dense_conv, "InLayout", Wrong)
    assert str(DENSE_CONV2D[name](conv, x)).endswith(" disagrees with torch.nn.functional.conv2d")


def test_numbers_may_stand_for_pairs() -> None:
    conv, x = problem(stride=2, padding=2)
    want = truth(conv, x)
    conv.stride, conv.padding, conv.dilation = 2, 2, 1  # type: ignore[assignment]
    for prepare in DENSE_CONV2D.values():
        if not isinstance(call := prepare(conv, x), str):
            torch.testing.assert_close(call(x).to_dense().double(), want, rtol=1e-4, atol=1e-4)


def test_an_input_that_is_too_small_is_a_refusal() -> None:
    conv, x = problem(kernel_size=7, padding=0)[0], torch.randn(1, 8, 5, 5)
    for name in ("onednn", "onednn_blocked", "nnpack"):
        assert isinstance(DENSE_CONV2D[name](conv, x), str)


def test_what_is_not_finite_stays_so() -> None:
    conv, x = problem()
    x[0, 3, 4, 5] = torch.inf
    for name, prepare in DENSE_CONV2D.items():
        call = prepare(conv, x)
        if isinstance(call, str) or name == "nnpack":  # a whole tile of Winograd's is lost with one input
            continue
        assert bool(call(x).to_dense()[1].isfinite().all()), name
