"""`sparsekern bench model`: any network, dense in every form against swapped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.bench import interleave
from sparsekern.bench.dense_layers import baked
from sparsekern.cli.arguments import TensorShape
from sparsekern.cli.bench.command import look_at_machine
from sparsekern.cli.bench.forms import (
    DENSE_FORMS,
    FORMS,
    ONNX,
    RUN_ERRORS,
    SWAPPED,
    Outcome,
    measure_forms,
    truth,
)
from sparsekern.cli.bench.presets import Pair
from sparsekern.cli.bench.records import Journal, about, check_outputs
from sparsekern.cli.bench.table import line
from sparsekern.cli.progress import say
from sparsekern.cli.threads import torch_threads
from sparsekern.masks import from_torch_prune_, sparsity
from sparsekern.tickets import Ticket

SAMPLES = 1000
"""Calls of each form at most, each timed by itself: what percentiles are taken of."""

PERCENTILES = (50, 90, 99)
FEWEST = {50: 5, 90: 10, 99: 100}
"""A percentile of fewer samples than these says nothing and is left out."""


@dataclass(frozen=True)
class ModelCase:
    """A network on inputs of these shapes; `sparsity` is the share of zeros in all weights of its layers."""

    model: str
    input: str
    sparsity: float

    op: ClassVar[str] = "model"

    def __str__(self) -> str:
        return self.model


def bench_model(options: argparse.Namespace) -> int:
    """The command. Returns 0; ValueError for a network that cannot be made or run, or has nothing sparse,
    before anything is timed, and where a swapped one computes something wrong."""
    return bench_loaded(options, *load(options.path, options.model), options.input)


def bench_loaded(
    options: argparse.Namespace, name: str, model: nn.Module, shapes: Sequence[TensorShape]
) -> int:
    """Time a network on these inputs, for each `--batch` with so many rows."""
    check_outputs(options)
    model = plain(model)
    sets = [[shape.with_rows(rows) for shape in shapes] for rows in options.batch or (None,)]
    check(model, sets)
    with torch_threads(options.threads):
        setting, journal = look_at_machine(options, DENSE_FORMS, options.budget)
        for of_set in sets:
            time_model(name, model, of_set, options.block, setting.budget_s, journal)
        journal.close()
    return 0


def time_model(
    name: str,
    model: nn.Module,
    shapes: Sequence[TensorShape],
    block: Pair | None,
    budget_s: float,
    journal: Journal,
) -> None:
    """Time a network that holds its effective weights on one set of inputs, if the journal does not have it;
    print and write it."""
    case = ModelCase(name, " ".join(map(str, shapes)), round(sparsity(model), 6))
    if journal.has(about(case), FORMS):
        say(f"{case} on {case.input} is in {journal.path}", sys.stdout)
        return
    time = partial(interleave, rounds=SAMPLES, min_sample_us=0.0, budget_s=budget_s)
    outcome = measure_forms(Outcome(case), model, _draw(shapes), block, time)
    for text in _about(outcome, shapes[0].sizes[0]):
        say(text, sys.stdout)
    outcome.write(about(case), journal)


def plain(model: nn.Module) -> nn.Module:
    """A copy that holds its effective weights, whoever masked it; ValueError if it cannot be copied."""
    try:
        from_torch_prune_(model)  # what torch masked is no leaf of the graph, which deepcopy refuses
        return baked(model)
    except RUN_ERRORS as error:
        raise ValueError(
            f"{type(model).__name__} cannot be copied with its masks baked in: {error}"
        ) from error


def load(path: str, factory: str | None) -> tuple[str, nn.Module]:
    """Name and network of `module:factory`, or of a safetensors file: a ticket of this package, or a state
    dict for the network that `factory` makes. ValueError for anything else."""
    if not path.endswith(".safetensors"):
        if factory is not None:
            raise ValueError(f"--model {factory}: expected with a .safetensors file only, got {path}")
        return path, _made(path)
    if factory is None:
        return Path(path).name, ticket_network(Path(path))
    model = _made(factory)
    try:
        state = safetensors.torch.load_file(path)
        model.load_state_dict(state)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(f"{path}: expected the state dict of {factory}: {error}") from error
    return Path(path).name, model


def ticket_network(path: Path) -> nn.Module:
    """The network of the zoo that a ticket of `sparsekern run` is of, with its trained weights and masks."""
    ticket = Ticket.load(path)
    task = ticket.config.get("task")
    name = task.get("model") if isinstance(task, dict) else None
    if name not in zoo.MODELS:
        raise ValueError(f"{path}: expected a ticket of a network of the zoo, got {name!r}: name its --model")
    model = zoo.model(str(name))
    ticket.apply_(model)
    return model


def shape_of(model: nn.Module) -> TensorShape:
    """What a network of the zoo takes, one row of it."""
    x = zoo.example(model, 1)
    return TensorShape(tuple(x.shape), whole=not x.is_floating_point())


def _made(name: str) -> nn.Module:
    """What `module:factory` gives; modules of the working directory are found too."""
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(f"{name!r}: expected module:factory or the path of a .safetensors file")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Callable[[], object] = getattr(import_module(module), attribute)
        made = factory()
    except (*RUN_ERRORS, ImportError, OSError, SyntaxError) as error:
        raise ValueError(f"{name} makes no network: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(made, nn.Module):
        raise ValueError(f"{name} makes {type(made).__name__}, expected an nn.Module")
    return made


def check(model: nn.Module, sets: Sequence[Sequence[TensorShape]]) -> None:
    """ValueError for a network with nothing to swap, or that does not run on one of the sets of inputs."""
    if not sparsity(model):
        raise ValueError(
            f"{type(model).__name__} has no zeros in the weights of its linear layers and convolutions: "
            "expected a pruned network"
        )
    with torch.inference_mode():
        for shapes in sets:
            truth(model, _draw(shapes))


def _draw(shapes: Sequence[TensorShape]) -> tuple[Tensor, ...]:
    """Normal values; ids 0 and 1 for whole numbers."""
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randint(2, shape.sizes, generator=generator)
        if shape.whole
        else torch.randn(shape.sizes, generator=generator)
        for shape in shapes
    )


# ---- what is printed


def _about(outcome: Outcome, rows: int) -> Iterator[str]:
    case = outcome.case
    yield f"{case.model} on {case.input}, {100 * case.sparsity:.2f} % zeros\n"
    yield f"{outcome.decisions()}\n"
    head = [
        "form",
        *(f"p{percent} us" for percent in PERCENTILES),
        "rows/s",
        "memory MiB",
        "file MiB",
        "error",
    ]
    yield line(head)
    yield f"|{'---|' * len(head)}"
    for form, timing in outcome.times.items():
        count = len(timing.samples_us)
        tail = [
            f"{np.percentile(timing.samples_us, percent):.1f}" if count >= FEWEST[percent] else ""
            for percent in PERCENTILES
        ]
        sizes = [f"{nbytes / 2**20:.2f}" for nbytes in outcome.bytes.get(form, ())] or ["", ""]
        speed = f"{1e6 * rows / timing.median_us:,.0f}"
        yield line([form, *tail, speed, *sizes, f"{outcome.errors[form]:.0e}"])
    yield ""
    for words, forms in (
        ("eager torch", ("torch",)),
        ("the best dense of torch", DENSE_FORMS[:-1]),
        (ONNX, (ONNX,)),
    ):
        if (found := outcome.against(*forms)) is not None:
            yield f"- {SWAPPED} against {words}: {found}"
    samples = len(next(iter(outcome.times.values())).samples_us)
    yield (
        f"- {samples} calls of each form, interleaved, each timed by itself; memory is that of parameters "
        "and buffers, the file a safetensors file of the state; ratios with their 95 % interval"
    )
    yield from (f"- {form}: {reason}" for form, reason in outcome.refusals.items())
    yield ""
