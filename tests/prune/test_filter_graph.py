"""Filters removed from networks with branches: the small network computes what the masked big one does."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.masks import mask_
from sparsekern.prune import Context
from sparsekern.prune.filter_graph import FilterReport, remove_filters_in_graph_

pytest.importorskip("torch_pruning")


class Branches(nn.Module):
    """Two branches that are concatenated, a depthwise convolution over both, two outputs, and much that
    channels cannot be taken out of: groups, a layer norm, a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.depthwise, self.bn = nn.Conv2d(12, 12, 3, groups=12), nn.BatchNorm2d(12)
        self.before, self.grouped = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 6, 1, groups=2)
        self.flat, self.norm = nn.Linear(6 * 36, 4), nn.LayerNorm(4)
        self.hidden, self.out = nn.Linear(4, 5), nn.Linear(5, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(m, 3, 8, 8) to (m, 3) and (m, 4)."""
        y = torch.cat([self.left(x), self.right(x).relu()], 1)
        y = self.grouped(self.before(self.bn(self.depthwise(y))).relu())
        z = self.norm(self.flat(y.flatten(1)))
        return self.out(self.hidden(z).relu()), z.softmax(1)


class Residual(nn.Module):
    """A block with a way around it, and what leads to it and from it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.fc = nn.Linear(8, 10)
        with torch.no_grad():
            self.outer.weight.mul_(torch.arange(8.0)[:, None, None, None])  # the ranks of the two differ

    def forward(self, x: Tensor) -> Tensor:
        """(m, 3, h, w) to (m, 10)."""
        x = self.bn(self.conv(x))
        logits: Tensor = self.fc((x + self.outer(self.inner(x).tanh())).amax((2, 3)))
        return logits


def unsettled(model: nn.Module) -> nn.Module:
    """In eval mode, with normalisations that have something to say."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 2)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)
    return model.eval()


@torch.no_grad()
def silence_(model: nn.Module, name: str, kept: Tensor, start: int = 0, count: int | None = None) -> None:
    """Zero the rows of a layer or norm that are not among the `count` ones kept from `start` on."""
    layer = model.get_submodule(name)
    count = len(layer.weight) if count is None else count
    gone = [start + at for at in range(count) if at not in kept.tolist()]
    layer.weight[gone] = 0
    if layer.bias is not None:
        layer.bias[gone] = 0


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def norms_of(conv: nn.Conv2d) -> Tensor:
    return conv.weight.detach().abs().sum((1, 2, 3))


def by_first(report: FilterReport) -> dict[str, Tensor]:
    return {group.layers[0]: group.kept for group in report.groups}


def notes(report: FilterReport) -> dict[str, str]:
    return {name: group.note for group in report.groups for name in group.layers}


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


@torch.no_grad()
def test_a_small_resnet_computes_what_the_masked_big_one_does() -> None:
    """Filters, their norms' scale and shift at zero: what meets them in an addition is zero as well."""
    model = unsettled(zoo.model("resnet20", torch.Generator().manual_seed(0)))
    masked, before = copy.deepcopy(model), shapes(model)
    whole = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (1, 2)]
    report = remove_filters_in_graph_(model, torch.randn(2, 3, 32, 32), 0.6, ignore=whole)
    for group in report.groups:
        for name in group.layers if not group.note else ():
            norm = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
            silence_(masked, name, group.kept)
            silence_(masked, norm, group.kept)
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(model(x), masked(x), rtol=0, atol=1e-5)
    after = shapes(model)
    assert after["fc.weight"] == (10, round(0.6 * 64)) and after["fc.bias"] == before["fc.bias"] == (10,)
    assert after["layer2.0.conv1.weight"] == (19, 10, 3, 3) and after["layer2.0.bn1.weight"] == (19,)
    assert report.parameters_after == parameters(model) < 0.6 * report.parameters_before
    shared = {frozenset(group.layers) for group in report.groups if len(group.layers) > 1}
    assert frozenset({"conv1", *(f"layer1.{block}.conv2" for block in range(3))}) in shared
    assert notes(report)["fc"] == "without them an output has the shape (2, 6) instead of (2, 10)"
    assert "272,474 parameters before" in str(report) and str(report).count("without them") == 1


def test_filters_are_ranked_by_the_norm_of_all_that_go_together() -> None:
    model = unsettled(Residual())
    norms, inner, outer = (norms_of(layer) for layer in (model.conv, model.inner, model.outer))
    shared = (norms + outer).topk(4).indices
    assert set(shared.tolist()) != set(norms.topk(4).indices.tolist())
    kept = by_first(remove_filters_in_graph_(model, torch.randn(1, 3, 5, 5), 0.5))
    assert kept["conv"].tolist() == sorted(shared.tolist())
    assert kept["inner"].tolist() == sorted(inner.topk(3).indices.tolist())


@torch.no_grad()
def test_branches_and_what_must_stay() -> None:
    model = unsettled(Branches())
    masked = copy.deepcopy(model)
    right = norms_of(model.right) + norms_of(model.depthwise)[8:]
    report = remove_filters_in_graph_(model, torch.randn(2, 3, 8, 8), 0.5)
    kept, why = by_first(report), notes(report)
    assert kept["right"].tolist() == sorted(right.topk(2).indices.tolist())
    silence_(masked, "left", kept["left"])
    silence_(masked, "right", kept["right"])
    silence_(masked, "hidden", kept["hidden"])
    for name in ("depthwise", "bn"):
        silence_(masked, name, kept["left"], 0, 8)
        silence_(masked, name, kept["right"], 8, 4)
    x = torch.randn(3, 3, 8, 8)
    for got, want in zip(model(x), masked(x), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert model.depthwise.weight.shape == (6, 1, 3, 3) and model.before.weight.shape == (6, 6, 1, 1)
    assert model.hidden.weight.shape == (2, 4) and model.bn.num_features == 6
    assert why["left"] == why["right"] == why["hidden"] == ""
    assert "does not run: RuntimeError: Given groups=2" in why["before"] and "does not run" in why["grouped"]
    assert re.match(r"without them an output differs by .* of ", why["flat"])
    assert why["out"] == "without them an output has the shape (2, 2) instead of (2, 3)"
    assert why["unused"].startswith("Torch-Pruning cannot remove them: ValueError: Module Linear")


def test_attention_stays_and_the_layers_between_shrink() -> None:
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    report = remove_filters_in_graph_(model, torch.randn(2, 5, 16), 0.5)
    assert model.linear1.weight.shape == (16, 16) and model.linear2.weight.shape == (16, 16)
    assert [name for name, note in notes(report).items() if not note] == ["linear1"]


def test_a_criterion_that_looks_at_data_and_layers_to_ignore() -> None:
    """Filter 2 is the largest, and nothing reads it: by Taylor's scores it goes first."""
    model = unsettled(Residual())
    with torch.no_grad():
        model.inner.weight[2] *= 10
        model.outer.weight[:, 2] = 0
    batch = (torch.randn(4, 3, 5, 5), torch.randint(10, (4,)))
    context = Context(batches=[batch])
    report = remove_filters_in_graph_(model, batch[0], 5 / 6, "taylor", ["outer"], context)
    assert by_first(report)["inner"].tolist() == [0, 1, 3, 4, 5]
    assert notes(report)["conv"] == notes(report)["outer"] == "outer is to be ignored"
    assert model.conv.weight.shape == (8, 3, 3, 3) and model.outer.weight.shape == (8, 5, 1, 1)


def test_modes_and_what_wants_a_gradient_stay() -> None:
    model = Residual()
    model.conv.weight.requires_grad_(False)
    model.fc.eval()
    model.bn.running_mean.normal_()
    statistics = model.bn.running_mean.clone()
    report = remove_filters_in_graph_(model, torch.randn(2, 3, 5, 5), 0.5)
    assert not model.conv.weight.requires_grad and model.fc.weight.requires_grad
    assert model.training and model.bn.training and not model.fc.training
    assert torch.equal(model.bn.running_mean, statistics[by_first(report)["conv"]])
    model(torch.randn(2, 3, 5, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_all_kept_is_the_same_network() -> None:
    model = Branches().eval()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    report = remove_filters_in_graph_(model, torch.randn(2, 3, 8, 8), 1)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert report.parameters_before == report.parameters_after and not any(notes(report).values())


def test_wrong_arguments_are_refused_and_nothing_is_changed() -> None:
    model, x = Branches().eval(), torch.randn(2, 3, 8, 8)
    before = shapes(model)
    for arguments, message in (
        ((x, 0), r"share must be in \(0, 1\], got 0"),
        ((x, 0.5, "l1"), "unknown criterion 'l1': expected one of"),
        ((x, 0.5, "magnitude", ["middle"]), r"ignore: unknown layers \['middle'\]"),
        ((x, 0.5, "snip"), "^snip looks at data: Context"),
        ((x[:, :2], 0.5), "example_inputs do not run"),
    ):
        with pytest.raises(ValueError, match=message):
            remove_filters_in_graph_(model, *arguments)
    mask_(model.hidden, torch.ones(5, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="hidden: plain Parameters are expected, call unmask_ first"):
        remove_filters_in_graph_(model, x, 0.5)
    assert shapes(model) | {"hidden.weight": (5, 4)} == before | {
        "hidden.parametrizations.weight.original": (5, 4)
    }
