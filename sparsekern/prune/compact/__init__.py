"""compact_: hidden units and channels that do nothing are taken out of a network, exactly.

A unit does nothing if no live weight reads it, or if it gives the same number whatever the input is: that
number times the weights that read it goes into the reader's bias. What is left is a smaller dense network,
and it comes before any sparse kernel, as whole rows and columns pay more than zeros between live weights do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from sparsekern.prune.axes import Space, Untraceable, quiet, run, trace
from sparsekern.prune.compact.dead import Candidates, additions_of, alive_units, candidates_of, constant_units
from sparsekern.prune.compact.shrink import Undo, shrink_
from sparsekern.prune.outputs import difference, tensors_in
from sparsekern.prune.tables import as_table

__all__ = ["CompactReport", "CompactedGroup", "compact_"]


@dataclass(frozen=True)
class CompactedGroup:
    """Hidden units that stand or fall together, named by the tensor and dimension where they come first.

    Attributes:
        before: how many there were.
        after: how many are left.
        constant: how many of those taken out were read, but gave the same number whatever the input.
        note: why others that do nothing had to stay.
    """

    name: str
    before: int
    after: int
    constant: int
    note: str


@dataclass(frozen=True)
class CompactReport:
    """What `compact_` took out; prints itself as a table. Parameters are counted in elements. `reason` says
    why nothing, or what was left alone."""

    groups: tuple[CompactedGroup, ...]
    parameters_before: int
    parameters_after: int
    reason: str

    def __str__(self) -> str:
        rows = [(g.name, str(g.before), str(g.after), str(g.constant), g.note) for g in self.groups]
        table = as_table(("units", "before", "after", "constant", "note"), rows)
        total = f"{self.parameters_before:,} parameters before, {self.parameters_after:,} after"
        return "\n".join([table, total, *([self.reason] if self.reason else [])])


def compact_(model: nn.Module, example_inputs: Any) -> CompactReport:
    """Take the hidden units and channels that do nothing out of `model`, in place; outputs in eval mode stay.

    Units that stand or fall together (`sparsekern.prune.permutable`) go if in every layer that reads them no
    weight is alive, or they are constant in eval mode: through biases, batch norms and activations the
    number that they give is followed exactly, and folded into the reader's bias. Where a convolution pads
    zeros beside them it is no bias; one of these units stays then, and its weights take over what the others
    did. Heads of an attention stay, what a norm takes the mean of, inputs and outputs, and one unit of each
    group at least.

    Exact for inputs of these sizes, and of others unless something constant depends on a size, as a position
    embedding that is cut to length. The result is run on the example inputs and compared; what does not run
    or differs, such as where the forward says a size in numbers, is undone group by group. A network that
    cannot be traced is left as it is, and the report says why; parameters that only training reads are left
    alone, and named. Costs a trace, about four forwards, and a fixed point over the weights. Parameters stay
    the same objects, with other shapes: make the optimizer afterwards. ValueError if the model does not run
    on the example inputs, or torch.nn.utils.prune holds a tensor of it; it is then as it was.
    """
    _refuse_torch_prune(model)
    before = sum(parameter.numel() for parameter in model.parameters())
    try:
        traced = trace(model, example_inputs)
    except Untraceable as error:
        return CompactReport((), before, before, f"nothing was taken out: {error}")
    with quiet(model):
        want = tensors_in(run(model, example_inputs))
        candidates = candidates_of(model, traced)
        done, problems = list(candidates.spaces), dict[Space, str]()
        undo = _attempt(model, candidates, done, example_inputs, want)
        if isinstance(undo, str):
            undo, done = [], []
            for space in candidates.spaces:
                _undo(undo)
                undo = _attempt(model, candidates, [*done, space], example_inputs, want)
                if isinstance(undo, str):
                    problems[space] = undo
                    undo = _attempt(model, candidates, done, example_inputs, want)
                    assert not isinstance(undo, str)
                else:
                    done.append(space)
    after = sum(parameter.numel() for parameter in model.parameters())
    unread = f"left alone, as nothing reads them in eval mode: {', '.join(traced.unread)}"
    reason = unread if traced.unread else ""
    return CompactReport(tuple(_groups(candidates, done, problems)), before, after, reason)


def _refuse_torch_prune(model: nn.Module) -> None:
    """What it keeps beside its parameters would not get smaller with them."""
    for name, module in model.named_modules():
        if any(isinstance(hook, BasePruningMethod) for hook in module._forward_pre_hooks.values()):
            raise ValueError(
                f"torch.nn.utils.prune holds a tensor of {name or type(model).__name__}: call "
                "from_torch_prune_ first"
            )


def _attempt(
    model: nn.Module,
    candidates: Candidates,
    spaces: Sequence[Space],
    example_inputs: Any,
    want: Sequence[Tensor],
) -> Undo | str:
    """Take what does nothing out of these spaces; what undoes it, or why it was undone."""
    alive = alive_units(spaces, candidates.readers)
    undo = shrink_(
        model,
        {candidates.spaces[space]: units for space, units in alive.items()},
        additions_of(alive, candidates.readers),
    )
    try:
        problem = difference(tensors_in(run(model, example_inputs)), want)
    except ValueError as error:
        problem = f"without them it does not run: {error.__cause__}".splitlines()[0]
    except BaseException:
        _undo(undo)
        raise
    if problem:
        _undo(undo)
        return problem
    return undo


def _undo(undo: Undo) -> None:
    for step in reversed(undo):
        step()


def _groups(
    candidates: Candidates, done: Sequence[Space], problems: dict[Space, str]
) -> list[CompactedGroup]:
    """What became of each group from which units went or in which idle ones stayed."""
    alive = alive_units(done, candidates.readers)
    idle = alive_units([*candidates.spaces, *candidates.stay], candidates.readers)
    found = []
    for space, group in {**candidates.spaces, **candidates.stay}.items():
        left = int(alive[space].sum()) if space in alive else group.size
        constant = constant_units(space, candidates.readers)
        if space in alive:
            taken, stuck = int((constant & ~alive[space]).sum()), int((constant & alive[space]).sum())
            why = "zeros are padded beside them, or no layer with a bias of its own reads them"
        else:
            taken, stuck = 0, group.size - int(idle[space].sum())
            why = problems.get(space) or group.fixed or space.sized
        if left < group.size or stuck:
            note = f"{stuck} that do nothing stay: {why}" if stuck else ""
            found.append(CompactedGroup(group.name, group.size, left, taken, note))
    return found
