"""The tables in plain sight: every entry leads somewhere and keeps the table's promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekern.bench import DENSE
from sparsekern.formats import FORMATS
from sparsekern.kernels import KERNELS, Kernel, Problem
from sparsekern.kernels.cost import COST
from sparsekern.kernels.table import BY_NAME
from sparsekern.nn import SWAPS
from sparsekern.prune import ALLOCATIONS, CRITERIA, STRUCTURES, Context
from sparsekern.prune.units import units_of
from sparsekern.tickets.recipe import OPTIMIZERS, RECIPES
from sparsekern.zoo import DATASETS, MODELS, example


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_kernel_loads_here_or_refuses_in_words(kernel: Kernel) -> None:
    try:
        backend = kernel.backend()
    except ImportError as error:
        assert len(str(error)) > 10
        return
    assert callable(backend.pack) and callable(backend.run)
    problem = Problem(kernel.op, "cpu", "", "float16", (3, 5), m=7, n=9, k=10, density=0.5)
    reason = kernel.refuse(problem)
    assert reason is None or len(reason) > 10


@pytest.mark.parametrize("op", ["linear", "conv2d"])
def test_the_reference_is_last_of_its_op_and_takes_everything(op: str) -> None:
    odd = Problem(op, "meta", "", "float64", (3, 5), m=0, n=9, k=10, density=0.0)
    kernels = [kernel for kernel in KERNELS if kernel.op == op]
    assert kernels[-1].name == f"reference_{op}"
    assert [kernel for kernel in kernels if kernel.refuse(odd) is None] == kernels[-1:]


def test_kernels_are_named_once_and_each_has_its_cost() -> None:
    names = [kernel.name for kernel in KERNELS]
    assert sorted(names) == sorted(BY_NAME) == sorted(COST)
    for by_rows in COST.values():
        assert min(by_rows) == 1 and all(cost.fixed > 0 and cost.per_element for cost in by_rows.values())


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_scores_every_weight(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    weight = model[0].weight.detach()
    batch = (torch.randn(5, 2, 4, 4), torch.randint(4, (5,)))
    learned = {"0.weight": torch.randn(weight.shape)}
    context = Context(torch.Generator().manual_seed(0), model, [batch], learned=learned)
    score = CRITERIA[name](weight, context.of("0.weight"))
    assert score.shape == weight.shape and score.dtype is torch.float32 and bool(score.isfinite().all())


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_an_allocation_keeps_the_share_it_is_asked_for(name: str) -> None:
    assert ALLOCATIONS[name]({"weight": units_of(torch.rand(5, 4), (1, 1))}, {"weight": 15.0}) == {
        "weight": 15
    }


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_takes_the_best_of_its_units(name: str) -> None:
    scores = torch.rand(8, 4, 2, 2)
    units = units_of(scores, name)
    mask = units.best(1)
    assert int(mask.sum()) == int(units.sizes[0]) > 0 and units.living == len(units.scores) > 1
    assert scores[mask].mean() > scores.mean()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_zoo_maps_what_it_takes_to_its_classes(name: str) -> None:
    model = MODELS[name](None).eval()
    x = example(model, 2)
    with torch.inference_mode():
        assert model(x).shape == (*(x.shape[:2] if x.dtype == torch.int64 else (2,)), model.classes)


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_rival_computes_or_refuses_in_words(name: str) -> None:
    weight, bias, x = torch.randn(8, 6), torch.randn(8), torch.randn(4, 6)
    call = DENSE[name](weight, bias, x)
    if isinstance(call, str):
        assert len(call) > 10
    else:
        torch.testing.assert_close(call(x), x @ weight.T + bias)


def test_other_tables_hold_what_they_say() -> None:
    assert all(issubclass(sparse, dense) for dense, sparse in SWAPS.items())
    assert all(isinstance(kind, type) for kind in FORMATS)
    assert all(issubclass(kind, torch.optim.Optimizer) for kind in OPTIMIZERS.values())
    assert all(callable(load) for load in DATASETS.values())
    assert {model for model, _ in RECIPES} <= set(MODELS) and {data for _, data in RECIPES} <= set(DATASETS)
