"""The masks that torch.nn.utils.prune makes, made here too; and masks that are given."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsekern.masks import from_torch_prune_, masks_of, to_torch_prune_, unmask_
from sparsekern.prune import NM, apply_masks_, load_masks, prune_, top_blocks

LAYERS = {
    "linear": lambda: nn.Linear(30, 20),
    "conv": lambda: nn.Conv2d(6, 10, 3),
    "wide": lambda: nn.Conv2d(8, 12, (1, 5)),
}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 10, 3), nn.Conv2d(10, 7, 1), nn.Flatten(), nn.Linear(28, 12))


def same(ours: dict[str, Tensor], theirs: nn.Module) -> bool:
    masks = from_torch_prune_(theirs)
    return ours.keys() == masks.keys() and all(torch.equal(mask, masks[name]) for name, mask in ours.items())


@pytest.mark.parametrize("amount", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", LAYERS)
def test_l1_unstructured(kind: str, amount: float) -> None:
    layer = LAYERS[kind]()
    theirs = copy.deepcopy(layer)
    prune.l1_unstructured(theirs, "weight", amount)
    assert same(prune_(layer, amount), theirs)


@pytest.mark.parametrize("amount", [1, 3, 7])
@pytest.mark.parametrize(("dim", "name"), [(0, "filters"), (1, "columns")])
@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("kind", LAYERS)
def test_ln_structured(kind: str, norm: int, dim: int, name: str, amount: int) -> None:
    layer = LAYERS[kind]()
    amount = min(amount, layer.weight.shape[dim] - 1)
    theirs = copy.deepcopy(layer)
    prune.ln_structured(theirs, "weight", amount, n=norm, dim=dim)
    size = layer.weight.shape[dim]
    # The norm of a slice orders slices of one size as does the mean of the powers in it.
    powers = layer.weight.detach().double().abs() ** norm
    assert same({"weight": top_blocks(powers, name, size - amount)}, theirs)
    criterion = {1: "magnitude", 2: "magnitude-l2"}[norm]
    assert torch.equal(
        prune_(layer, amount / size, criterion, name)["weight"], theirs.parametrizations.weight[0].mask
    )


@pytest.mark.parametrize("amount", [0.2, 0.75])
def test_global_unstructured(amount: float) -> None:
    model = network()
    theirs = copy.deepcopy(model)
    layers = [layer for layer in theirs if hasattr(layer, "weight")]
    prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=amount)
    assert same(prune_(model, amount, scope="global"), theirs)


def test_one_after_the_other() -> None:
    layer = nn.Linear(30, 20)
    theirs = copy.deepcopy(layer)
    prune.ln_structured(theirs, "weight", 5, n=1, dim=0)
    prune.l1_unstructured(theirs, "weight", 150)  # Of what is left, as always there.
    prune_(layer, 0.25, block="filters")
    assert same(prune_(layer, 0.5), theirs)


def given() -> dict[str, Tensor]:
    return {
        "0.weight": torch.rand(10, 3, 3, 3) < 0.5,
        "3.weight": torch.rand(12, 28) < 0.5,
        "3.bias": torch.rand(12) < 0.5,
    }


def test_custom_from_mask() -> None:
    model, masks = network(), given()
    theirs = copy.deepcopy(model)
    for name, mask in masks.items():
        path, _, own = name.rpartition(".")
        prune.custom_from_mask(theirs.get_submodule(path), own, mask)
    x = torch.randn(2, 3, 4, 4)
    expected = theirs(x)
    applied = apply_masks_(model, masks)
    assert torch.equal(model(x), expected) and same(applied, theirs)
    unmask_(model, keep=False)
    assert all(
        torch.equal(mine, its) for mine, its in zip(model.parameters(), network_of(theirs), strict=True)
    )


def network_of(theirs: nn.Module) -> list[nn.Parameter]:
    """Its parameters without masks, in the model's order."""
    unmask_(theirs, keep=False)
    return list(theirs.parameters())


def test_given_masks_only_shrink_those_that_are_there_and_pruning_goes_on_inside_them() -> None:
    model, masks = network(), given()
    before = {name: mask.clone() for name, mask in prune_(model, 0.3).items()}
    applied = apply_masks_(model, masks)
    for name, mask in masks.items():
        assert torch.equal(applied[name], mask & before[name] if name in before else mask)
        assert torch.equal(masks_of(model)[name], applied[name])
    kept = {name: mask.clone() for name, mask in applied.items()}
    pruned = prune_(model, 0.5, block=NM(2, 4), ignore=["0", "1"])["3.weight"]
    assert not bool((pruned & ~kept["3.weight"]).any()) and bool(
        (pruned.reshape(-1, 4).sum(dim=1) <= 2).all()
    )
    assert torch.equal(masks_of(model)["3.bias"], kept["3.bias"])


def test_masks_come_from_files(tmp_path: Path) -> None:
    masks = given()
    save_file(masks, tmp_path / "ours.safetensors")
    save_file({name: mask.to(torch.uint8) for name, mask in masks.items()}, tmp_path / "bytes.safetensors")
    theirs = network()
    apply_masks_(theirs, masks)
    to_torch_prune_(theirs)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    for name in ("ours", "bytes", "theirs"):
        loaded = load_masks(tmp_path / f"{name}.safetensors")
        assert loaded.keys() == masks.keys() and all(mask.dtype == torch.bool for mask in loaded.values())
        assert all(torch.equal(loaded[key], mask) for key, mask in masks.items())
    save_file({"0.weight": torch.full((2, 2), 0.5)}, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"odd.safetensors: mask 0.weight must hold 0 and 1 only"):
        load_masks(tmp_path / "odd.safetensors")
    (tmp_path / "text.safetensors").write_text("masks")
    with pytest.raises(ValueError, match=r"text.safetensors: a safetensors file of masks is expected"):
        load_masks(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError):
        load_masks(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"7.weight": torch.ones(2, 2).bool()}, "mask 7.weight: .*has no attribute"),
        ({"2.weight": torch.ones(2, 2).bool()}, "mask 2.weight: Flatten has no tensor 'weight'"),
        (
            {"3.weight": torch.ones(12, 28)},
            r"mask 3.weight: bool of shape \(12, 28\) expected, got torch.float32",
        ),
        ({"3.weight": torch.ones(28, 12).bool()}, r"expected, got torch.bool of shape \(28, 12\)"),
    ],
)
def test_masks_that_fit_nothing_are_refused_before_anything_changes(
    masks: dict[str, Tensor], message: str
) -> None:
    model = network()
    with pytest.raises(ValueError, match=message):
        apply_masks_(model, {"0.weight": torch.ones(10, 3, 3, 3).bool(), **masks})
    assert masks_of(model) == {}
