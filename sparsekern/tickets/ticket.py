"""The ticket: a winning mask with the weights it starts from and those it reached, and its file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern._version import __version__
from sparsekern.masks import dense_state, mask_, unmask_
from sparsekern.tickets import files
from sparsekern.tickets.results import alive_share
from sparsekern.tickets.stepper import State


@dataclass(frozen=True)
class Ticket:
    """A winning ticket (Frankle & Carbin 2019, arXiv 1803.03635).

    masks: bool by parameter name.
    rewind: θ_k, the state from which training started, without the mask.
    trained: the state at early stop, its dead weights zero.
    seed, config: how it was found. results: what was measured. Both dicts are plain JSON.

    ValueError if the two states differ in names, shapes or dtypes, a mask is not bool of the shape of a
    floating-point weight, all masks are empty, a dead weight is not zero in `trained`, or `seed` is no int of
    at least 0.
    """

    masks: dict[str, Tensor]
    rewind: State
    trained: State
    seed: int
    config: dict[str, Any]
    results: dict[str, Any]
    code_version: str = field(default=__version__)

    def __post_init__(self) -> None:
        if problem := files.mismatch(self.trained, self.rewind):
            raise ValueError(f"trained and rewind states must be alike: {problem}")
        for name, value in self.rewind.items():
            if value.dtype.is_complex or value.dtype != self.trained[name].dtype:
                raise ValueError(
                    f"{name} of one real dtype expected, got {value.dtype} in rewind "
                    f"and {self.trained[name].dtype} in trained"
                )
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed must be an int of at least 0, got {self.seed!r}")
        if not any(mask.numel() for mask in self.masks.values()):
            raise ValueError("at least one mask of at least one weight is expected, got none")
        for name, mask in self.masks.items():
            self._check_mask(name, mask)

    def _check_mask(self, name: str, mask: Tensor) -> None:
        weight = self.rewind.get(name)
        if weight is None or mask.dtype != torch.bool or mask.shape != weight.shape:
            expected = "no such weight" if weight is None else f"bool of shape {tuple(weight.shape)}"
            raise ValueError(
                f"mask {name}: {expected} expected, got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        if not weight.dtype.is_floating_point:
            raise ValueError(f"{name} has a mask: a floating-point weight is expected, got {weight.dtype}")
        if lively := int(self.trained[name][~mask].count_nonzero()):
            raise ValueError(f"trained {name}: zeros where its mask is dead expected, got {lively} others")

    @property
    def sparsity(self) -> float:
        """The share of dead weights among those with a mask, 0 … 1."""
        return 1 - alive_share(self.masks)

    def __str__(self) -> str:
        rows = [
            f"{name:<24} {int(mask.sum()):>12,} of {mask.numel():>12,} alive"
            for name, mask in self.masks.items()
        ]
        return "\n".join([*rows, f"{'sparsity':<24} {self.sparsity:.2%}"])

    def save(self, path: str | Path) -> None:
        """Write the ticket to one safetensors file; a killed save leaves what was there before."""
        tensors = {
            **files.ungroup("rewind", self.rewind),
            **files.ungroup("trained", self.trained),
            **{f"mask/{name}": files.pack(mask) for name, mask in self.masks.items()},
        }
        header = {"seed": self.seed, "config": self.config, "results": self.results}
        files.write(Path(path), "ticket", tensors, {**header, "found_with": self.code_version})

    @staticmethod
    def load(path: str | Path) -> Ticket:
        """Read a ticket; everything is checked before anything is returned, and no code in the file is run.

        ValueError naming what came and what was expected for a missing, truncated, damaged or foreign file,
        another format version, missing or unknown parts, and whatever the class itself refuses.
        """
        path = Path(path)
        tensors, header = files.read(path, "ticket")
        rewind = files.group(tensors, "rewind")
        if not rewind:
            raise ValueError(
                f"{path}: tensors rewind/…, trained/… and mask/… expected, got {sorted(tensors)}"
            )
        if unknown := [name for name in tensors if not name.startswith(("rewind/", "trained/", "mask/"))]:
            raise ValueError(f"{path}: only tensors rewind/…, trained/… and mask/… expected, got {unknown}")
        masks = files.unpack_masks(tensors, rewind, path)
        values = {
            "seed": files.field(header, "seed", int, path),
            "config": files.field(header, "config", dict, path),
            "results": files.field(header, "results", dict, path),
            "code_version": files.field(header, "found_with", str, path),
        }
        try:
            return Ticket(masks, rewind, files.group(tensors, "trained"), **values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def apply_(self, model: nn.Module, weights: str = "trained") -> None:
        """Set the ticket's weights and masks on `model`: all of it, or nothing and a ValueError.

        weights: "trained" or "rewind". Masks of ours already on the model are replaced. The model's plain
        state must have the ticket's names and shapes, and floating-point values where the ticket has them.
        """
        states = {"trained": self.trained, "rewind": self.rewind}
        if weights not in states:
            raise ValueError(f"unknown weights {weights!r}: expected one of {list(states)}")
        present = dense_state(model)
        problem = files.mismatch(present, self.rewind) or next(
            (
                f"{name} of a dtype like {value.dtype} expected, got {present[name].dtype}"
                for name, value in self.rewind.items()
                if value.dtype.is_floating_point != present[name].dtype.is_floating_point
            ),
            None,
        )
        if problem:
            raise ValueError(f"the ticket does not fit {type(model).__name__}: {problem}")
        unmask_(model)
        model.load_state_dict(states[weights])
        for name, mask in self.masks.items():
            layer, _, parameter = name.rpartition(".")
            mask_(model.get_submodule(layer), mask, parameter)
