"""What every op asks before it calls a kernel: whether autocast, a transform or a gradient is at work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether nothing of all that is asked below is at work: then the kernel's backend is called as it is.
    Asked at once, since each question on its own costs a small layer more than its answer."""
    return not (
        torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch._C._is_any_autocast_enabled()
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))
    )


def autocast_dtype(x: Tensor, values: Tensor) -> torch.dtype | None:
    """The dtype in which autocast wants the result of ``x`` and a weight's ``values``; None if it is not on,
    or leaves such a weight alone."""
    if not torch._C._is_any_autocast_enabled() and not torch.compiler.is_compiling():
        return None  # without asking for the device, which costs a small layer a tenth of its time
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device) and values.dtype is not torch.float64:
        return torch.get_autocast_dtype(device)
    return None


def is_transformed() -> bool:
    """Whether forward-mode derivatives or a torch.func transform are at work: the ops know nothing of them,
    and would answer with a zero derivative. A dense product of torch's own knows them all.
    """
    if torch.compiler.is_compiling():
        return False  # the compiler traces the ops as they are
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def is_traced() -> bool:
    """Whether somebody looks at the ops that are called: the compiler, an export, a dispatch mode."""
    return (
        torch._C._get_tracing_state() is not None
        or torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch._C._len_torch_dispatch_stack() > 0
    )


def recorded(
    forward: Callable[..., Tensor], save: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Tensor]:
    """The function of an op with its derivative, for calls that nobody traces: recorded by
    ``torch.autograd.Function`` alone, in half the time that torch's layer for registered ops takes
    (docs/measured.md, "What a call costs")."""

    def run(ctx: Any, *inputs: Any) -> Tensor:
        y = forward(*inputs)
        save(ctx, inputs, y)
        return y

    made = type(
        "Recorded",
        (torch.autograd.Function,),
        {"forward": staticmethod(run), "backward": staticmethod(backward)},
    )
    apply: Callable[..., Tensor] = made.apply  # type: ignore[attr-defined]
    return apply


def needs_op(*tensors: Tensor | None) -> bool:
    """Whether a call must go through the registered op: one of the tensors asks for a gradient in a mode that
    records it, or the call is exported, and a file may name only what importing sparsekern registers."""
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    return wanted or torch.compiler.is_exporting()
