"""A network in all its forms, dense and swapped: made, checked against float64, timed interleaved."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from sparsekern.bench import Ratio, Timing, best_dense_model, fold_norms, hardest, ratio
from sparsekern.cli.bench.presets import Pair
from sparsekern.cli.bench.records import Journal, sped_up, timed
from sparsekern.cli.bench.rivals import missing, onnxruntime_call
from sparsekern.masks import dense_state
from sparsekern.nn import SwapReport, fuse_, swap_
from sparsekern.nn.layer import SparseLayer

ONNX = "onnxruntime"
DENSE_FORMS = ("torch", "onednn", "channels_last", "onednn_opaque", "fused", ONNX)
SWAPPED = "swapped"
FORMS = (*DENSE_FORMS, SWAPPED)

# Largest error of a form against float64, in units of the largest output; float32 rounds to 6e-8, in many
# layers.
ERROR_LIMIT = 1e-4

Inputs = tuple[Tensor, ...]
Calls = Mapping[str, Callable[[], object]]
Timings = Mapping[str, Timing]
RUN_ERRORS = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError)
"""What a network or its exporter raises that does not take what it is given."""


@dataclass
class Outcome:
    """What was measured of one network: `times` and `errors` by form, or the `refusals` in words; of the
    swapped one, the `report` on every layer and how many modules were `folded`; by form, `bytes` in memory
    (parameters and buffers) and in a safetensors file."""

    case: Any
    times: Mapping[str, Timing] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    report: SwapReport | None = None
    folded: int = 0
    bytes: dict[str, Pair] = field(default_factory=dict)

    def against(self, *forms: str) -> Ratio | None:
        """Speed-up of the swapped network over the form of these that it beats by least; None without
        them."""
        timed = [form for form in forms if form in self.times]
        return hardest(self.times, timed, SWAPPED)[1] if timed else None

    def decisions(self) -> str:
        """What was done with each layer."""
        return f"{self.report}\n{self.folded} modules folded into sparse layers"

    def write(self, problem: Mapping[str, object], journal: Journal) -> None:
        """A record for each form."""
        dense = [form for form in DENSE_FORMS if form in self.times]
        known: dict[str, dict[str, Any]] = {
            form: {"refusal": reason} for form, reason in self.refusals.items()
        }
        for form, timing in self.times.items():
            best = hardest(self.times, dense, form)[0]
            against = sped_up(best, ratio(self.times[best], timing))
            known[form] = {**timed(timing), **against, "error": self.errors[form]}
            if form in self.bytes:
                known[form] |= dict(zip(("memory_bytes", "file_bytes"), self.bytes[form], strict=True))
            if form == SWAPPED and self.report is not None:
                known[form]["layers"] = self.report.to_json()["layers"]
        journal.add(problem, known)


def measure_forms(
    outcome: Outcome, model: nn.Module, inputs: Inputs, block: Pair | None, time: Callable[[Calls], Timings]
) -> Outcome:
    """Time all forms of a network in eval mode with `time`, after `make_forms`."""
    with torch.inference_mode():
        outcome.times = time(make_forms(outcome, model, inputs, block))
    return outcome


def make_forms(outcome: Outcome, model: nn.Module, inputs: Inputs, block: Pair | None) -> Calls:
    """The call of each form that computes what the network does in float64; the others are refusals.

    `block` is the one block that layers are swapped in, or the best of several. ValueError for a network
    that does not run on the inputs, and for a swapped one that computes something wrong.
    """
    calls: dict[str, Callable[[], object]] = {}
    with torch.inference_mode():
        want = truth(model, inputs)
        forms: dict[str, Any] = {**best_dense_model(model, inputs), ONNX: _onnxruntime(model, inputs)}
        without = {*DENSE_FORMS} - {*forms}
        outcome.refusals |= {form: "the network has no plain convolution" for form in without}
        forms[SWAPPED] = _swapped(model, inputs, outcome, block)
        state = dense_state(model)
        outcome.bytes["torch"] = (sum(_nbytes(value) for value in state.values()), _file_bytes(state))
        for name, form in forms.items():
            if isinstance(form, str):
                outcome.refusals[name] = form
                continue
            error = float((form(*inputs).double() - want).abs().max() / want.abs().max().clamp_min(1e-300))
            if error <= ERROR_LIMIT:
                outcome.errors[name], calls[name] = error, partial(form, *inputs)
            elif name == SWAPPED:
                raise ValueError(
                    f"{name} {outcome.case} is off by {error:.1e} of its largest output, expected at most "
                    f"{ERROR_LIMIT}"
                )
            else:
                outcome.refusals[name] = f"off by {error:.1e} of the largest output"
    return calls


def truth(model: nn.Module, inputs: Inputs) -> Tensor:
    """What the network gives in float64; ValueError if it does not run, or gives no tensor."""
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    shapes = ", ".join("x".join(map(str, x.shape)) for x in inputs)
    try:
        want = copy.deepcopy(model).double()(*wide)
    except RUN_ERRORS as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{type(model).__name__} does not run on --input {shapes}: {type(error).__name__}: {first}"
        ) from error
    if not isinstance(want, Tensor):
        raise ValueError(
            f"{type(model).__name__} gives {type(want).__name__}, expected a tensor: wrap it in the factory"
        )
    return want


def _swapped(model: nn.Module, inputs: Inputs, outcome: Outcome, block: Pair | None) -> nn.Module:
    """Folded like the best dense form where that can be, then swapped and fused."""
    network = _folded(model)
    outcome.report = swap_(network, inputs, block=block)
    outcome.folded = len(fuse_(network, inputs).folded)
    indices = (layer.index for layer in network.modules() if isinstance(layer, SparseLayer))
    memory = sum(_nbytes(value) for value in (*network.parameters(), *network.buffers(), *indices))
    outcome.bytes[SWAPPED] = (memory, _file_bytes(network.state_dict()))
    return network


def _folded(model: nn.Module) -> nn.Module:
    try:
        return fold_norms(model)
    except (*RUN_ERRORS, torch.fx.proxy.TraceError):
        return copy.deepcopy(model)  # it cannot be traced, so that nothing is folded in the dense form either


def _nbytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _file_bytes(state: Mapping[str, Tensor]) -> int:
    """Of a safetensors file, in which each tensor is on its own."""
    return len(safetensors.torch.save({name: value.clone().contiguous() for name, value in state.items()}))


def _onnxruntime(model: nn.Module, inputs: Inputs) -> Any:
    if absent := missing(ONNX):
        return absent
    if len(inputs) != 1:
        return f"is fed one input here, not {len(inputs)}"
    file: Any = io.BytesIO()  # torch takes it, its annotation does not
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no other package is on its way out
        try:
            torch.onnx.export(
                model, inputs, file, dynamo=False, input_names=["x"], output_names=["y"], opset_version=13
            )
        except (*RUN_ERRORS, ImportError) as error:
            return f"torch does not export it: {(str(error).splitlines() or [''])[0]}"
    return onnxruntime_call(file.getvalue())
