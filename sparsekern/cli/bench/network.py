"""`sparsekern bench network`: whole networks of the papers with random masks, dense in every form against
swapped."""

from __future__ import annotations

import argparse
import copy
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.bench import Ratio, Timing, best_dense_model, fold_norms, hardest, interleave, ratio
from sparsekern.cli.bench.cases import random_mask
from sparsekern.cli.bench.command import look_at_machine
from sparsekern.cli.bench.presets import NETWORKS, Pair
from sparsekern.cli.bench.records import Journal
from sparsekern.cli.bench.rivals import missing, onnxruntime_call
from sparsekern.cli.bench.table import line, percent
from sparsekern.cli.progress import say
from sparsekern.cli.threads import torch_threads
from sparsekern.masks import fit_block, maskable
from sparsekern.nn import fuse_, swap_

ONNX = "onnxruntime"
DENSE_FORMS = ("torch", "onednn", "channels_last", "onednn_opaque", "fused", ONNX)
SPARSE_FORMS = ("swapped", "swapped_channels_last")

# Largest error of a form against float64, in units of the largest output; float32 rounds to 6e-8, in many
# layers.
ERROR_LIMIT = 1e-4


@dataclass(frozen=True)
class NetworkCase:
    """A network of the zoo on `batch` images, its weights but for `sparsity` of them zero, in whole
    blocks."""

    network: str
    batch: int
    sparsity: float
    block: Pair


@dataclass
class Outcome:
    """What was measured of one network: `times` and `errors` by form, or the `refusals` in words;
    `decisions` on every layer, by sparse form."""

    case: NetworkCase
    times: Mapping[str, Timing] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    decisions: dict[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> str:
        """The faster of the sparse forms."""
        return min(
            (form for form in SPARSE_FORMS if form in self.times), key=lambda form: self.times[form].median_us
        )

    def against(self, *forms: str) -> Ratio | None:
        """Speed-up of the faster sparse form over the one of these that it beats by least; None without
        them."""
        timed = [form for form in forms if form in self.times]
        return hardest(self.times, timed, self.ours)[1] if timed else None


def bench_network(options: argparse.Namespace) -> int:
    """The command. Returns 0; ValueError for an unknown network, before anything is timed, and where a
    swapped one computes something wrong."""
    names = options.name or NETWORKS
    if unknown := [name for name in names if name not in zoo.MODELS]:
        raise ValueError(f"unknown network {unknown[0]!r}: expected some of {list(zoo.MODELS)}")
    if options.json is not None:
        options.json.open("a").close()  # that it can be written is known now, not after the first network
    with torch_threads(options.threads):
        setting, journal = look_at_machine(options, DENSE_FORMS, options.budget)
        outcomes = []
        for name in names:
            for batch in options.batch:
                case = NetworkCase(name, batch, options.sparsity, options.block)
                outcomes.append(outcome := measure_network(case, setting.budget_s))
                for text in _about(outcome):
                    say(text, sys.stdout)
                _write(outcome, journal)
        for text in _table(outcomes):
            say(text, sys.stdout)
    return 0


def measure_network(case: NetworkCase, budget_s: float) -> Outcome:
    """Make the network in all its forms, check each against float64, and time them in one interleaved run."""
    model = masked_network(case)
    x = zoo.example(model, case.batch, torch.Generator().manual_seed(1))
    outcome = Outcome(case)
    with torch.inference_mode():
        want = copy.deepcopy(model).double()(x.double())
        forms: dict[str, Any] = {**best_dense_model(model, x), ONNX: _onnxruntime(model, x)}
        forms |= _swapped(model, x, outcome)
        calls = {}
        for name, form in forms.items():
            if isinstance(form, str):
                outcome.refusals[name] = form
                continue
            given = _channels_last(x) if name == "swapped_channels_last" else x
            error = float((form(given).double() - want).abs().max() / want.abs().max())
            if error <= ERROR_LIMIT:
                outcome.errors[name], calls[name] = error, partial(form, given)
            elif name in SPARSE_FORMS:
                raise ValueError(
                    f"{name} {case.network} is off by {error:.1e} of its largest output, expected at most "
                    f"{ERROR_LIMIT}"
                )
            else:
                outcome.refusals[name] = f"off by {error:.1e} of the largest output"
        outcome.times = interleave(calls, budget_s=budget_s)
    return outcome


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


def _swapped(model: nn.Module, x: Tensor, outcome: Outcome) -> dict[str, nn.Module]:
    """Folded like the best dense form, then swapped and fused, in both memory formats."""
    found = {}
    for name, given in zip(SPARSE_FORMS, (x, _channels_last(x)), strict=True):
        network: Any = fold_norms(model)
        if name == "swapped_channels_last":
            network.to(memory_format=torch.channels_last)
        report = swap_(network, given, block=None if outcome.case.block == (1, 1) else outcome.case.block)
        fused = fuse_(network)
        outcome.decisions[name] = f"{report}\n{len(fused.folded)} modules folded into sparse layers"
        found[name] = network
    return found


def _onnxruntime(model: nn.Module, x: Tensor) -> Any:
    if absent := missing(ONNX):
        return absent
    file: Any = io.BytesIO()  # torch takes it, its annotation does not
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no other package is on its way out
        try:
            torch.onnx.export(
                model, (x,), file, dynamo=False, input_names=["x"], output_names=["y"], opset_version=13
            )
        except (RuntimeError, TypeError, ImportError) as error:
            return f"torch does not export it: {(str(error).splitlines() or [''])[0]}"
    return onnxruntime_call(file.getvalue())


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


# ---- what is printed and written


def _about(outcome: Outcome) -> Iterator[str]:
    """What was decided on each layer, in the form that was faster."""
    yield f"{outcome.case.network}, batch {outcome.case.batch}: {outcome.ours}\n"
    yield outcome.decisions[outcome.ours]
    yield from (f"{form}: {reason}" for form, reason in outcome.refusals.items())
    yield ""


def _table(outcomes: list[Outcome]) -> Iterator[str]:
    forms = (*DENSE_FORMS, *SPARSE_FORMS)
    head = ["network", "batch", "sparsity", "block", *(f"{form} us" for form in forms)]
    head += ["against torch", "against best dense of torch", f"against {ONNX}"]
    yield line(head)
    yield f"|{'---|' * len(head)}"
    for outcome in outcomes:
        case, times = outcome.case, outcome.times
        medians = [f"{times[form].median_us:.0f}" if form in times else "refuses" for form in forms]
        ratios = [outcome.against("torch"), outcome.against(*DENSE_FORMS[:-1]), outcome.against(ONNX)]
        about = [case.network, str(case.batch), percent(case.sparsity), f"{case.block[0]}x{case.block[1]}"]
        yield line([*about, *medians, *("n/a" if found is None else str(found) for found in ratios)])
    yield ""
    yield (
        "- Times are medians; ratios are of the faster swapped form, above 1 where it is faster, with their "
        "95 % interval. Swapped networks, like the fused dense one, have batch normalisation folded in."
    )


def _write(outcome: Outcome, journal: Journal) -> None:
    problem = {"op": "network", **asdict(outcome.case)}
    for form, reason in outcome.refusals.items():
        journal.add(problem, form, refusal=reason)
    dense = [form for form in DENSE_FORMS if form in outcome.times]
    for form, timing in outcome.times.items():
        best = hardest(outcome.times, dense, form)[0]
        journal.add(
            problem,
            form,
            median_us=timing.median_us,
            interval_us=timing.interval_us,
            speedup=asdict(ratio(outcome.times[best], timing)),
            error=outcome.errors[form],
        )
