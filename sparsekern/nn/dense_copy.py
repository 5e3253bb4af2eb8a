"""DenseCopy: the dense weight that a sparse layer shows. Who writes into it is told that the layer would not
see it."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor


class DenseCopy(Tensor):
    """A tensor that can be read, but not written to: ValueError. What is computed of it is a plain tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:
        """The numbers, which cannot be set."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        _refuse(self, value)


def _refuse(*_: object, **__: object) -> NoReturn:
    raise ValueError(
        "the weight of a sparse layer is a dense copy, made anew on each access, and what is written into it "
        "would be lost; expected a change of its values, or a dense layer in its place: see restore_"
    )


_OF_NO_NUMBERS = ("requires_grad_", "detach_", "share_memory_")
_INTO_ITSELF = [name for name in dir(Tensor) if name.endswith("_") and not name.startswith("_")]
for _name in (*_INTO_ITSELF, "__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"):
    if _name not in _OF_NO_NUMBERS:
        setattr(DenseCopy, _name, _refuse)
