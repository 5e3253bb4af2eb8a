"""Compaction: what does nothing goes, exactly; what must stay is said."""

from __future__ import annotations

import copy

import pytest
import torch
from random_networks import RandomNetwork, kill_units_, unsettled_
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured

from sparsekern import zoo
from sparsekern.masks import mask_, masks_of, sparsity
from sparsekern.prune.compact import CompactReport, compact_


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(x)
        return result


def assert_exact(model: nn.Module, x: Tensor, tolerance: float = 1e-5) -> CompactReport:
    """On the inputs that it was traced with, and on others."""
    other = torch.randn(3, *x.shape[1:]).to(x.dtype)
    before, elsewhere = outputs(model, x), outputs(model, other)
    report = compact_(model, x)
    for now, want in ((outputs(model, x), before), (outputs(model, other), elsewhere)):
        assert (now - want).abs().max() <= tolerance * want.abs().max()
    assert report.parameters_after == sum(parameter.numel() for parameter in model.parameters())
    return report


def mask_rows_(layer: nn.Module, *dead: int) -> None:
    mask = torch.ones_like(layer.weight, dtype=torch.bool)
    mask[list(dead)] = False
    mask_(layer, mask)


def mask_columns_(layer: nn.Module, *dead: int) -> None:
    mask = torch.ones_like(layer.weight, dtype=torch.bool)
    mask[:, list(dead)] = False
    mask_(layer, mask)


# ---- sizes by hand


def test_units_that_nothing_reads_go_with_what_only_they_read() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    mask_columns_(model[4], 0, 3)
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[[1, 2, 4], 5] = False  # unit 5 is read by units 0 and 3 only
    mask_(model[2], mask)
    report = assert_exact(model, torch.randn(2, 3))
    assert [tuple(model[at].weight.shape) for at in (0, 2, 4)] == [(5, 3), (3, 5), (2, 3)]
    assert (model[0].out_features, model[2].in_features, model[2].out_features) == (5, 5, 3)
    assert [(g.name, g.before, g.after, g.constant, g.note) for g in report.groups] == [
        ("0.weight[0]", 6, 5, 0, ""),
        ("2.weight[0]", 5, 3, 0, ""),
    ]
    assert (report.parameters_before, report.parameters_after) == (
        18 + 6 + 30 + 5 + 10 + 2,
        15 + 5 + 15 + 3 + 6 + 2,
    )
    assert masks_of(model)["2.weight"].shape == (3, 5)


def test_a_constant_unit_goes_into_the_bias_of_what_reads_it() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double().eval()
    mask_rows_(model[0], 1, 2)
    with torch.no_grad():
        constants = nn.functional.gelu(model[0].bias[[1, 2]])
        want = model[2].bias + model[2].weight[:, [1, 2]] @ constants
    report = assert_exact(model, torch.randn(2, 3).double(), 1e-14)
    assert torch.allclose(model[2].bias, want, rtol=1e-14)
    assert [(g.after, g.constant) for g in report.groups] == [(2, 2)]


def test_a_layer_without_a_bias_gets_one() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2)).eval()
    mask_rows_(model[0], 3)
    mask_columns_(model[3], 0)
    assert_exact(model, torch.randn(2, 3))
    assert model[1].bias is not None and model[1].bias.shape == (4,)


def test_a_constant_beside_padded_zeros_goes_into_another() -> None:
    """A dead filter behind a batch norm is a constant map, whose border a padded convolution sees.

    One of them stays for all.
    """
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1)
    )
    model = model.double().eval()
    unsettled_(model)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([3.0, 2.0, -9.0, 1.0, 1.0, 1.0]))
        model[1].running_mean.zero_()
    mask_rows_(model[0], 0, 1, 2, 3)  # the third is zero behind the ReLU, and nothing is lost with it
    mask_(model[3], torch.rand(3, 6, 3, 3) < 0.7)
    report = assert_exact(model, torch.randn(2, 2, 6, 6).double(), 1e-12)
    (group,) = report.groups
    assert (group.before, group.after, group.constant) == (6, 3, 3)
    assert group.note.startswith("1 that do nothing stay: zeros are padded beside them")
    assert model[3].in_channels == 3 and model[1].num_features == 3


def test_without_padding_all_constants_go() -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3)).double().eval()
    unsettled_(model)
    mask_rows_(model[0], 0, 1, 2)
    report = assert_exact(model, torch.randn(2, 2, 6, 6).double(), 1e-12)
    assert [(g.after, g.constant) for g in report.groups] == [(3, 3)]
    assert model[2].weight.shape == (3, 3, 3, 3)


@pytest.mark.parametrize("between", [nn.Conv2d(6, 6, 3, padding=1), nn.AvgPool2d(3, 1, padding=1)])
def test_a_constant_of_one_size_of_image_is_none(between: nn.Module) -> None:
    """On an image of one pixel there is nothing but border, and what padding makes looks constant."""
    model = nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.ReLU(), copy.deepcopy(between), nn.ReLU(), nn.Conv2d(6, 3, 1)
    )
    model = model.double().eval()
    unsettled_(model)
    mask_rows_(model[0], 0, 1, 2, 3)
    large = torch.randn(2, 2, 5, 5).double()
    before = outputs(model, large)
    compact_(model, torch.randn(2, 2, 1, 1).double())
    assert torch.allclose(outputs(model, large), before, rtol=1e-12)
    assert model[0].out_channels < 6


def test_depthwise_convolutions_shrink_with_their_channels() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.Conv2d(6, 12, 3, padding=1, groups=6), nn.ReLU(), nn.Conv2d(12, 3, 1)
    ).eval()
    mask_columns_(model[3], 2, 3, 8)  # both outputs of channel 1, one of channel 4
    assert_exact(model, torch.randn(2, 2, 5, 5))
    assert (model[0].out_channels, model[1].groups, model[1].out_channels, model[3].in_channels) == (
        5,
        5,
        10,
        10,
    )


def test_one_unit_of_a_group_stays() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    mask_(model[2], torch.zeros(2, 4, dtype=torch.bool))
    assert_exact(model, torch.randn(2, 3))
    assert model[0].out_features == model[2].in_features == 1


# ---- networks


@pytest.mark.parametrize(("name", "side"), [("lenet300", 28), ("conv2", 32), ("resnet20", 8)])
def test_networks_of_the_zoo_with_dead_rows_and_columns(name: str, side: int) -> None:
    model = zoo.model(name).eval()
    unsettled_(model)
    kill_units_(model, 0.3)
    before = sparsity(model)
    parameters = dict(model.named_parameters())
    report = assert_exact(model, torch.randn(2, model.image[0], side, side))
    assert report.parameters_after < 0.6 * report.parameters_before
    assert sparsity(model) < 0.65 * before
    assert all(parameters[name] is value for name, value in model.named_parameters() if name in parameters)
    assert model(torch.randn(2, model.image[0], side, side)).sum().backward() is None  # it trains on


@pytest.mark.parametrize("seed", [7, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 23))])
def test_random_networks(seed: int) -> None:
    model = RandomNetwork(seed).double().eval()
    unsettled_(model)
    kill_units_(model, 0.3, 0.8)
    report = assert_exact(model, torch.randn(2, 4, 4, 4).double(), 1e-10)
    assert report.parameters_after < report.parameters_before


def test_in_a_residual_stream_units_go_when_every_branch_can_do_without() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.down, self.up, self.end = (
                nn.Linear(3, 6),
                nn.Linear(6, 5),
                nn.Linear(5, 6),
                nn.Linear(6, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            y = self.start(x)
            result: Tensor = self.end(y + self.up(torch.relu(self.down(y))))
            return result

    model = Residual().eval()
    mask_columns_(model.end, 0, 1)
    mask_columns_(model.down, 1, 2)  # unit 2 is still read at the end, unit 0 on the way
    assert_exact(model, torch.randn(2, 3))
    assert (model.start.out_features, model.up.out_features, model.end.in_features) == (5, 5, 5)


# ---- what stays


def test_heads_inputs_and_outputs_stay() -> None:
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 12), layer, nn.Linear(12, 4)).eval()
    mask_columns_(layer.linear2, *range(7))
    mask_columns_(layer.self_attn.out_proj, 0, 1, 2, 3)
    mask_columns_(model[0], 2)
    mask_columns_(model[2], 5)
    report = assert_exact(model, torch.randn(2, 5, 4))
    assert {group.name: (group.after, group.note) for group in report.groups} == {
        "1.linear1.weight[0]": (13, ""),
        "0.weight[1]": (4, "1 that do nothing stay: it is an input of the model"),
        "1.self_attn.in_proj_weight[0]": (3, "1 that do nothing stay: it is one of several pieces"),
    }
    assert layer.linear1.out_features == 13 and layer.self_attn.embed_dim == 12


def test_where_the_forward_says_a_size_everything_comes_back() -> None:
    class Says(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.a(x)).view(len(x), 4) + 1
            result: Tensor = self.c(torch.relu(self.b(y)))
            return result

    model = Says().eval()
    mask_columns_(model.b, 1)
    mask_rows_(model.a, 0)
    mask_columns_(model.c, 2)
    masks = {name: mask.clone() for name, mask in masks_of(model).items()}
    report = assert_exact(model, torch.randn(2, 3))
    notes = {group.name: (group.after, group.note) for group in report.groups}
    assert notes["b.weight[0]"] == (3, "")
    assert (
        notes["a.weight[0]"][0] == 4
        and "without them it does not run: shape '[2, 4]'" in notes["a.weight[0]"][1]
    )
    assert torch.equal(masks_of(model)["a.weight"], masks["a.weight"]) and model.b.bias is None
    assert model.a.out_features == 4 and model.b.weight.shape == (3, 4)


def test_what_cannot_be_traced_is_left_alone() -> None:
    class Branches(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else -x

    report = compact_(Branches(3, 3), torch.ones(1, 3))
    assert report.reason.startswith("nothing was taken out: Branches cannot be traced")
    assert report.reason in str(report) and report.parameters_before == report.parameters_after == 12


def test_what_only_training_reads_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model.extra = nn.Linear(5, 6)
    model.forward = lambda x: model[1](model[0](x))
    mask_columns_(model[1], 2)
    report = assert_exact(model, torch.randn(2, 3))
    assert report.reason == "left alone, as nothing reads them in eval mode: extra.weight, extra.bias"
    assert model[0].out_features == 3 and model.extra.weight.shape == (6, 5)


def test_masks_of_torch_are_refused_and_inputs_must_run() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="example_inputs do not run"):
        compact_(model, torch.ones(1, 4))
    l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(ValueError, match="holds a tensor of 0: call from_torch_prune_ first"):
        compact_(model, torch.ones(1, 3))


def test_training_modes_come_back_and_the_report_is_a_table() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2).eval())
    mask_columns_(model[2], 0)
    shrunk = copy.deepcopy(model)
    lines = str(compact_(shrunk, torch.randn(1, 3))).splitlines()
    assert shrunk[1].training and not shrunk[2].training
    assert lines[0].split() == ["units", "before", "after", "constant", "note"]
    assert lines[2].split() == ["0.weight[0]", "4", "3", "0"]
    assert lines[3] == "26 parameters before, 20 after"
