"""`sparsekern bench network`: whole networks of the papers with random masks, dense in every form against
swapped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.bench import interleave
from sparsekern.cli.bench.cases import random_mask
from sparsekern.cli.bench.command import look_at_machine
from sparsekern.cli.bench.forms import DENSE_FORMS, FORMS, ONNX, Outcome, measure_forms
from sparsekern.cli.bench.presets import NETWORKS, Pair
from sparsekern.cli.bench.records import Journal, about, check_outputs
from sparsekern.cli.bench.table import line, percent
from sparsekern.cli.progress import say
from sparsekern.cli.threads import torch_threads
from sparsekern.masks import fit_block, maskable


@dataclass(frozen=True)
class NetworkCase:
    """A network of the zoo on `batch` images, its weights but for `sparsity` of them zero, in whole
    blocks."""

    network: str
    batch: int
    sparsity: float
    block: Pair

    op: ClassVar[str] = "network"

    def __str__(self) -> str:
        return self.network


def bench_network(options: argparse.Namespace) -> int:
    """The command. Returns 0; ValueError for an unknown network, before anything is timed, and where a
    swapped one computes something wrong."""
    names = options.name or NETWORKS
    if unknown := [name for name in names if name not in zoo.MODELS]:
        raise ValueError(f"unknown network {unknown[0]!r}: expected some of {list(zoo.MODELS)}")
    check_outputs(options)
    chosen = [
        NetworkCase(name, batch, options.sparsity, options.block) for name in names for batch in options.batch
    ]
    with torch_threads(options.threads):
        setting, journal = look_at_machine(options, DENSE_FORMS, options.budget)
        bench_networks(chosen, journal, lambda left: setting.budget_s)
        journal.close()
    return 0


def bench_networks(
    chosen: Sequence[NetworkCase], journal: Journal, budget_s: Callable[[int], float | None]
) -> int:
    """Time those that are not in the journal; print each and a table. Returns how many are left: `budget_s`
    says how long the next may be timed, given how many there still are, or None to stop."""
    left = [case for case in chosen if not journal.has(about(case), FORMS)]
    outcomes: list[Outcome] = []
    for case in left:
        if (seconds := budget_s(len(left) - len(outcomes))) is None:
            break
        outcomes.append(outcome := measure_network(case, seconds))
        for text in _about(outcome):
            say(text, sys.stdout)
        outcome.write(about(case), journal)
    for text in _table(outcomes) if outcomes else ():
        say(text, sys.stdout)
    return len(left) - len(outcomes)


def measure_network(case: NetworkCase, budget_s: float) -> Outcome:
    """Make the network in all its forms, check each against float64, and time them in one interleaved run."""
    time = partial(interleave, budget_s=budget_s)
    return measure_forms(Outcome(case), *of_case(case), time)


def of_case(case: NetworkCase) -> tuple[nn.Module, tuple[Tensor], Pair | None]:
    """The masked network, its images, and the block to swap in; None for the best of several."""
    model = masked_network(case)
    x = zoo.example(model, case.batch, torch.Generator().manual_seed(1))
    return model, (x,), None if case.block == (1, 1) else case.block


def masked_network(case: NetworkCase) -> nn.Module:
    """The network in eval mode, random weights in random places, and batch normalisation as if it had
    learned."""
    generator = torch.Generator().manual_seed(0)
    model = zoo.model(case.network, generator).eval()
    with torch.no_grad():
        for layer in maskable(model).values():
            weight = cast(Tensor, layer.weight)
            block = fit_block(case.block, weight.shape)
            weight *= random_mask(weight.shape, block, case.sparsity, generator)
            weight /= (1 - case.sparsity) ** 0.5  # what comes out stays as large as it was
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
                nn.init.uniform_(layer.running_var, 0.5, 1.5, generator=generator)
                nn.init.normal_(layer.bias, std=0.1, generator=generator)
    return model


# ---- what is printed and written


def _about(outcome: Outcome) -> Iterator[str]:
    """What was decided on each layer."""
    yield f"{outcome.case.network}, batch {outcome.case.batch}\n"
    yield outcome.decisions()
    yield from (f"{form}: {reason}" for form, reason in outcome.refusals.items())
    yield ""


def _table(outcomes: list[Outcome]) -> Iterator[str]:
    head = ["network", "batch", "sparsity", "block", *(f"{form} us" for form in FORMS)]
    head += ["against torch", "against best dense of torch", f"against {ONNX}"]
    yield line(head)
    yield f"|{'---|' * len(head)}"
    for outcome in outcomes:
        case, times = outcome.case, outcome.times
        medians = [f"{times[form].median_us:.0f}" if form in times else "refuses" for form in FORMS]
        ratios = [outcome.against("torch"), outcome.against(*DENSE_FORMS[:-1]), outcome.against(ONNX)]
        about = [case.network, str(case.batch), percent(case.sparsity), f"{case.block[0]}x{case.block[1]}"]
        yield line([*about, *medians, *("n/a" if found is None else str(found) for found in ratios)])
    yield ""
    yield (
        "- Times are medians; ratios are of the swapped form, above 1 where it is faster, with their 95 % "
        "interval. Swapped networks, like the fused dense one, have batch normalisation folded in."
    )
