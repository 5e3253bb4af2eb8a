"""What a criterion lacks is named in words, with the way to give it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparsekern.masks import mask_
from sparsekern.prune.criteria import CRITERIA, Context, Movement, edge_popup_, layer_inputs

OF_THE_MODEL = (
    "batchnorm",
    "snip",
    "taylor",
    "grasp",
    "synflow",
    "fisher",
    "obd",
    "obd-hutchinson",
    "wanda",
    "sparsegpt",
)
LEARNED = ("movement", "edge-popup")
ALONE = ("magnitude", "magnitude-l2", "random")


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))


def full(network: nn.Module) -> Context:
    batch = (torch.randn(5, 4), torch.randint(2, (5,)))
    return Context(torch.Generator().manual_seed(0), network, [batch]).of("0.weight")


def test_every_criterion_is_in_a_list_here() -> None:
    assert sorted((*OF_THE_MODEL, *LEARNED, *ALONE)) == sorted(CRITERIA)


@pytest.mark.parametrize("criterion", OF_THE_MODEL)
def test_without_a_model_or_batches(criterion: str) -> None:
    network = model()
    weight, context = network[0].weight, full(network)
    assert bool(CRITERIA[criterion](weight, context).isfinite().all())
    with pytest.raises(ValueError, match=rf"{criterion} .*Context\(batches=\[.* is expected, got no batch"):
        CRITERIA[criterion](weight, replace(full(network), batches=()))
    with pytest.raises(ValueError, match=rf"{criterion} .*Context\(model=...\) is expected, got none"):
        CRITERIA[criterion](weight, replace(full(network), model=None))


@pytest.mark.parametrize("criterion", OF_THE_MODEL)
def test_a_name_or_a_weight_that_is_not_the_models(criterion: str) -> None:
    network = model()
    with pytest.raises(ValueError, match=r"one of \['0.weight', '3.weight'\] is expected, got 'fc'"):
        CRITERIA[criterion](network[0].weight, full(network).of("fc"))
    with pytest.raises(ValueError, match=rf"{criterion}: the weight of '0.weight' is not the one"):
        CRITERIA[criterion](network[0].weight + 1, full(network))


def test_scores_of_an_earlier_step_are_not_given_out() -> None:
    """The cache of a context that was kept: its weights have been masked since."""
    network = model()
    context = full(network)
    CRITERIA["snip"](network[0].weight, context)
    mask_(network[0], torch.rand(3, 4) < 0.5)
    with pytest.raises(ValueError, match="a new Context for each step is expected"):
        CRITERIA["snip"](network[0].weight, context)


def test_a_layer_that_is_never_called() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    network = Unused()
    context = full(network).of("unused.weight")
    for criterion in ("wanda", "sparsegpt"):
        with pytest.raises(ValueError, match=rf"{criterion}: the network never called .*'unused.weight'"):
            CRITERIA[criterion](network.unused.weight, context)
    with pytest.raises(ValueError, match=r"must be called once .* got calls with \[\] rows"):
        CRITERIA["obd"](network.unused.weight, context)
    with pytest.raises(ValueError, match="never called"):
        layer_inputs(context)
    assert not bool(CRITERIA["snip"](network.unused.weight, context).any())


def test_samples_that_a_layer_cannot_tell_apart() -> None:
    """Rows of one sample may meet later on, so that their second derivatives mix."""
    network = nn.Sequential(nn.Flatten(0, 1), nn.Linear(4, 3), nn.Unflatten(0, (5, 2)), nn.Flatten())
    context = Context(model=network, batches=[(torch.randn(5, 2, 4), torch.randint(6, (5,)))])
    with pytest.raises(ValueError, match=r"a row for each of the 5 samples; got calls with \[10\] rows"):
        CRITERIA["obd"](network[1].weight, context.of("1.weight"))


def test_inputs_that_are_all_zero() -> None:
    layer = nn.Linear(4, 2)
    context = Context(model=layer, batches=[(torch.zeros(3, 4), torch.zeros(3))])
    with pytest.raises(ValueError, match=r"inputs must not all be zero, got a mean square of 0.0"):
        CRITERIA["sparsegpt"](layer.weight, context.of("weight"))


@pytest.mark.parametrize("criterion", LEARNED)
def test_without_learned_scores(criterion: str) -> None:
    weight = torch.ones(3, 4)
    context = Context(learned={"fc.weight": torch.ones(2, 2)})
    with pytest.raises(ValueError, match=rf"{criterion} .*Context\(learned=...\) .* got \['fc.weight'\]"):
        CRITERIA[criterion](weight, context.of("other.weight"))
    with pytest.raises(ValueError, match=r"of shape \(3, 4\) for 'fc.weight', got scores of \(2, 2\)"):
        CRITERIA[criterion](weight, context.of("fc.weight"))


def test_weights_that_cannot_be_watched_or_scored() -> None:
    network = model()
    with pytest.raises(ValueError, match=r"observe\(\) is expected after loss.backward\(\)"):
        Movement(network).observe()
    nn.utils.parametrizations.weight_norm(network[3])
    for refused in (Movement, edge_popup_):
        with pytest.raises(ValueError, match=r"must be a (plain )?Parameter"):
            refused(network)
    assert all(parameter.requires_grad for parameter in network.parameters())
