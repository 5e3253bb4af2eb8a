"""swap_ lays images out in the format that is faster inside; the network's ends see what they always saw."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.bench import DENSE_CONV2D
from sparsekern.masks import mask_
from sparsekern.nn import layout

FIRST, LAST = layout.CHANNELS_FIRST, layout.CHANNELS_LAST
TIMES = {name: 100.0 for name in DENSE_CONV2D} | {"sparse": 50.0, "before": 3.0, "after": 2.0}


class Net(nn.Module):
    """Gives its last image and a vector; ``strides`` are what its second convolution saw last."""

    def __init__(self, view: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.head = (
            nn.Conv2d(8, 32, 3, padding=1),
            nn.Conv2d(32, 16, 3),
            nn.Linear(160, 8),
        )
        self.view, self.seen = view, torch.contiguous_format
        for layer in (self.one, self.two, self.head):
            mask_(layer, torch.rand_like(layer.weight) >= 0.9)

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Any]:
        x = self.one(x * scale).relu()
        self.seen = torch.channels_last if layout.format_of(x) == LAST else torch.contiguous_format
        y = self.two(x)
        rows = y.mean(3).view(len(y), -1) if self.view else y.mean(3).reshape(len(y), -1)
        return {"image": y, "vector": self.head(rows), "scale": scale}


def images(name: str = FIRST) -> Tensor:
    return torch.randn(3, 8, 12, 14).contiguous(memory_format=layout.FORMATS[name])


@pytest.mark.parametrize(("outside", "inside"), [(FIRST, LAST), (LAST, FIRST)])
def test_the_faster_format_is_inside_and_nobody_sees_it(
    clock: Callable[..., None], outside: str, inside: str
) -> None:
    clock(**TIMES, **{inside: 1.0})
    model, x = Net(), images(outside)
    want = model(x, 2.0)
    report = sk.swap_(model, x)
    assert report.inside == inside and f"3 of 3 layers swapped, images {inside} inside" in str(report)
    assert (report.before_us, report.after_us) == (3.0, 1.0) and report.to_json()["inside"] == inside
    for given in (x, x.contiguous(memory_format=layout.FORMATS[inside])):
        got = model(given, scale=2.0)
        assert layout.format_of(got["image"]) == outside and model.seen is layout.FORMATS[inside]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    model.two(x.new_ones(1, 32, 3, 3))  # a layer alone takes what comes
    assert sk.restore_(model) == 3 and layout.kept(model) is None
    torch.testing.assert_close(model(x, 2.0), want, rtol=0, atol=0)
    assert model.seen is layout.FORMATS[outside] and not model._forward_pre_hooks_with_kwargs


def test_the_slower_format_is_not(clock: Callable[..., None]) -> None:
    clock(**TIMES, **{LAST: 2.5})
    model, x = Net(), images()
    report = sk.swap_(model, x)
    assert report.inside is None and report.after_us == 2.0 and len(report.swapped) == 3
    assert layout.kept(model) is None and "inside" not in report.to_json()
    assert model(x)["image"].is_contiguous() and model.seen is torch.contiguous_format


def test_a_network_that_became_slower_in_both_is_as_it_was(clock: Callable[..., None]) -> None:
    clock(**TIMES | {"after": 5.0, LAST: 4.0})
    model = Net()
    report = sk.swap_(model, images())
    assert report.undone and report.after_us == 4.0 and report.inside is None and not report.swapped
    assert layout.kept(model) is None and type(model.two).__name__ == "ParametrizedConv2d"


def test_a_network_that_depends_on_the_format_keeps_it(clock: Callable[..., None]) -> None:
    clock(**TIMES, **{LAST: 1.0})
    model = Net()
    model.forward = lambda x: Net.forward(model, x)["image"].view(len(x), -1)  # type: ignore[method-assign]
    assert sk.swap_(model, images()).inside is None  # torch refuses such a view
    model = Net()
    model.forward = lambda x: Net.forward(model, x)["image"].as_strided((3, 40), (40, 1))  # type: ignore[method-assign]
    assert sk.swap_(model, images()).inside is None  # and does not see that this one gives something else


@pytest.mark.parametrize("inputs", [torch.randn(4, 8), torch.randn(4, 1, 6, 6)], ids=["rows", "one channel"])
def test_where_there_is_nothing_to_lay_out(inputs: Tensor) -> None:
    assert layout.format_of(inputs) is None and layout.format_of({"x": [inputs, 1]}) is None


def test_dense_convolutions_are_not_timed_twice(clock: Callable[..., None]) -> None:
    clock(**TIMES, **{LAST: 1.0})
    model, calls = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(1), nn.Linear(960, 960)), []
    mask_(model[2], torch.rand(960, 960) >= 0.9)
    model.register_forward_pre_hook(lambda _, args: calls.append(layout.format_of(args)))
    assert sk.swap_(model, images()).inside is None
    assert set(calls) == {FIRST}


def laid_out(clock: Callable[..., None]) -> Net:
    clock(**TIMES, **{LAST: 1.0})
    model = Net().eval()
    assert sk.swap_(model, images()).inside == LAST
    return model


def test_copies_lay_out_too(clock: Callable[..., None]) -> None:
    model, x = laid_out(clock), images()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert layout.kept(other) == (LAST, FIRST)
        torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
        sk.restore_(other)
        assert layout.kept(other) is None and layout.kept(model) is not None


def test_a_file_says_so(clock: Callable[..., None], tmp_path: Path) -> None:
    model, x = nn.ModuleDict({"inner": laid_out(clock)}), images()
    sk.save(model, tmp_path / "x.safetensors")
    for fresh in (nn.ModuleDict({"inner": Net()}), copy.deepcopy(model)):
        sk.restore_(fresh)
        other = sk.load(fresh, tmp_path / "x.safetensors")["inner"]
        assert layout.kept(other) == (LAST, FIRST) and len(other._forward_hooks) == 1
        torch.testing.assert_close(other.eval()(x), model["inner"](x), rtol=0, atol=0)


def test_a_second_swap_leaves_it(clock: Callable[..., None]) -> None:
    model = laid_out(clock)
    model.new = nn.Conv2d(8, 8, 1)
    sk.swap_(model, images())
    assert layout.kept(model) == (LAST, FIRST) and len(model._forward_hooks) == 1


@pytest.mark.parametrize("strict", [False, True], ids=["loose", "strict"])
def test_an_export_lays_out_too(strict: bool, clock: Callable[..., None]) -> None:
    model, x = laid_out(clock), images()
    with torch.no_grad():
        got = torch.export.export(model, (x,), strict=strict).module()(x)
        assert got["image"].is_contiguous()
        torch.testing.assert_close(got, model(x), rtol=1e-5, atol=1e-6)


def test_gradients_and_the_compiler(clock: Callable[..., None]) -> None:
    model, x = laid_out(clock), images().requires_grad_()
    model(x)["vector"].sum().backward()
    assert x.grad is not None and x.grad.is_contiguous()
    plain = copy.deepcopy(model)
    sk.restore_(plain)
    (want,) = torch.autograd.grad(plain(x)["vector"].sum(), x)
    torch.testing.assert_close(x.grad, want, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        got = compiled(x)
        torch.testing.assert_close(got["image"], model(x)["image"], rtol=1e-5, atol=1e-6)
        assert got["image"].is_contiguous()
