"""State dicts in and out of sparse layers: every index is checked before a kernel sees it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk

Made = tuple[nn.Sequential, Tensor]


def _layer(dense: nn.Module, x: Tensor) -> Made:
    model = nn.Sequential(dense)
    sk.prune.prune_(model, sparsity=0.8)
    assert sk.swap_(model, threshold=0.5).swapped
    return model, x


def _int8() -> Made:
    return nn.Sequential(sk.nn.QuantizedSparseLinear.from_dense(nn.Linear(64, 32))), torch.randn(2, 64)


LAYERS: dict[str, Callable[[], Made]] = {
    "linear": lambda: _layer(nn.Linear(64, 32), torch.randn(2, 64)),
    "conv2d": lambda: _layer(nn.Conv2d(8, 16, 3), torch.randn(2, 8, 5, 5)),
    "conv1d": lambda: _layer(nn.Conv1d(8, 16, 3), torch.randn(2, 8, 9)),
    "int8": _int8,
}


def _last(col: Tensor) -> Tensor:
    col[-1] = 2**31 - 1
    return col


FORGED: tuple[tuple[str, Callable[[Tensor], Tensor], str], ...] = (
    ("col", lambda t: t + 10**6, r"col\[0\] = \d+: expected a block column"),
    ("col", lambda t: -t - 1, r"col\[0\] = -\d+: expected a block column"),
    ("col", _last, r"col\[\d+\] = 2147483647: expected a block column"),
    ("col", lambda t: t.flip(0), "expected strictly rising columns"),
    ("col", lambda t: t.long(), "col: expected contiguous int32"),
    ("col", lambda t: torch.stack([t, t], 1)[:, 0], "col: expected contiguous int32"),
    ("crow", lambda t: t.flip(0), "crow: expected to run from 0"),
    ("crow", lambda t: t + 1, "crow: expected to run from 0"),
    ("crow", lambda t: torch.cat([t[:1], t[1:-1].flip(0) + 1, t[-1:]]), "crow|rising"),
)


@pytest.mark.parametrize("alone", [False, True], ids=["all", "alone"])
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("number", range(len(FORGED)))
@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_forged_indices_of_the_right_size_are_refused(
    kind: str, number: int, assign: bool, alone: bool
) -> None:
    """Beside the values, and alone where nothing else is asked for; the layer stays as it was."""
    part, forge, words = FORGED[number]
    model, x = LAYERS[kind]()
    want, state = model(x), copy.deepcopy(model.state_dict())
    forged = {**({} if alone else state), f"0.{part}": forge(state[f"0.{part}"].clone())}
    with pytest.raises(ValueError, match=words):
        model.load_state_dict(forged, strict=not alone, assign=assign)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(x), want)


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_another_pattern_is_loaded(kind: str, assign: bool) -> None:
    model, x = LAYERS[kind]()
    other, _ = LAYERS[kind]()
    assert not torch.equal(model(x), other(x))
    state = copy.deepcopy(other.state_dict())
    model.load_state_dict(state, assign=assign)
    assert torch.equal(model(x), other(x))
    state["0.col"].fill_(10**6)  # the layer has tensors of its own
    assert torch.equal(model(x), other(x))


@pytest.mark.parametrize("part", ["values", "crow", "col"])
@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_missing_is_told(kind: str, part: str) -> None:
    model, _ = LAYERS[kind]()
    state = model.state_dict()
    del state[f"0.{part}"]
    with pytest.raises(RuntimeError, match=rf'Missing key\(s\) in state_dict: "0\.{part}"'):
        model.load_state_dict(state)


def test_an_assigned_parameter_trains_on() -> None:
    model, x = LAYERS["linear"]()
    state = copy.deepcopy(model.state_dict())
    values = model[0].values
    model.load_state_dict(state, assign=True)
    assert model[0].values is values and values.requires_grad
    model(x).sum().backward()
    assert values.grad is not None


def test_the_meta_device_is_refused_until_it_has_memory() -> None:
    model, x = LAYERS["linear"]()
    state, want = copy.deepcopy(model.state_dict()), model(x)
    model.to("meta")
    for assign in (False, True):
        with pytest.raises(ValueError, match=r"0\.values: .* got the meta device"):
            model.load_state_dict(state, assign=assign)
    model.to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(model(x), want)
