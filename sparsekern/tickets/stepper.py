"""A network in training: one optimizer step after another, each a function of (key, step) alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsekern.tickets import files, ranks
from sparsekern.tickets.recipe import OPTIMIZERS, PRECISIONS, Recipe
from sparsekern.zoo import Data
from sparsekern.zoo.augment import AUGMENTATIONS

State = dict[str, Tensor]
Key = tuple[int, ...]
Swap = Callable[[nn.Module, Mapping[str, Tensor], Tensor], None]
"""Put sparse layers in place of masked ones: (a plain network, the masks, a batch of inputs). The new layers
must train, hold dead weights at zero, and give their dense weight as `.weight`."""
# What chance is for, after the key of the run; batches have the epoch there.
AUGMENT, NOISE = 1_000_000_001, 1_000_000_002


def stream(*key: int) -> torch.Generator:
    """A generator that belongs to `key`: a seed followed by what the draws are for."""
    return torch.Generator().manual_seed(_seed(*key))


def _seed(*key: int) -> int:
    # The length is part of the key because SeedSequence does not see zeros at the end.
    sequence = np.random.SeedSequence((len(key), *key))
    return int(sequence.generate_state(1, np.uint64)[0])


def batches(count: int, batch: int, key: Key, start: int = 0) -> Iterator[Tensor]:
    """Indices (batch,) of the steps start, start + 1, … without end.

    Each epoch is a new permutation of `count`. What is left over at the end of an epoch is dropped.
    ValueError for a batch larger than `count`.
    """
    per_epoch = count // batch
    if per_epoch == 0:
        raise ValueError(
            f"a batch of at most {count}, the number of training images, is expected, got {batch}"
        )
    epoch, first = divmod(start, per_epoch)
    while True:
        order = torch.randperm(count, generator=stream(*key, epoch))
        for at in range(first * batch, per_epoch * batch, batch):
            yield order[at : at + batch]
        epoch, first = epoch + 1, 0


def copy_state(model: nn.Module) -> State:
    """A copy of the model's state dict that further training does not touch."""
    return {name: value.clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def zero_dead_(model: nn.Module, factors: Mapping[str, Tensor]) -> None:
    """Multiply parameters in place by `factors`: 1 where a weight is alive, 0 where it is dead."""
    for name, factor in factors.items():
        model.get_parameter(name).mul_(factor)


class Training:
    """`model`, a plain network, in training by `recipe` from step `start` on, with a fresh optimizer.

    Weights that `masks` (bool, by parameter name) call dead are zero from the start and after every step.
    swap: makes sparse kernels of masked layers; without it they are trained dense, their dead weights set
    back. key: seeds data order, augmentation and dropout. Model and data are on one device.

    Where torch.distributed runs, each rank takes its share of each batch, and gradients are averaged: the
    step is that of the joined batch up to rounding, but for batch normalisation, which sees its rank's
    images, and for augmentation and dropout, which each rank draws for itself.
    ValueError for a batch that the ranks cannot share.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        data: Data,
        recipe: Recipe,
        key: Key,
        start: int = 0,
        swap: Swap | None = None,
    ) -> None:
        if recipe.batch % ranks.world():
            raise ValueError(f"a batch that {ranks.world()} ranks can share is expected, got {recipe.batch}")
        self.data, self.recipe, self.key, self.start, self.done = data, recipe, key, start, start
        self.names = list(model.state_dict())
        partly = {name: mask for name, mask in masks.items() if not bool(mask.all())}
        factors = {name: mask.to(data.train_x.device, torch.float32) for name, mask in partly.items()}
        zero_dead_(model, factors)
        self.plain = self.model = model
        if swap is not None and partly:
            self.model = copy.deepcopy(model)
            swap(self.model, partly, data.train_x[: recipe.batch])
        parameters = dict(self.model.named_parameters())
        self.factors = {name: factor for name, factor in factors.items() if name in parameters}
        self.optimizer = self._optimizer()
        self.net: nn.Module = self.model
        if ranks.world() > 1:
            self.net = nn.parallel.DistributedDataParallel(self.model)
        self.order = batches(len(data.train_y), recipe.batch, key, start)
        self.share = slice(ranks.rank(), None, ranks.world())
        self.draws = _draws(model)
        self.model.train()

    def _optimizer(self) -> torch.optim.Optimizer:
        recipe = self.recipe
        own = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
        made: torch.optim.Optimizer = OPTIMIZERS[recipe.optimizer](
            self.model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True, **own
        )
        return made

    def step(self) -> None:
        """One iteration."""
        recipe = self.recipe
        if recipe.warmup or recipe.drops:
            self.optimizer.param_groups[0]["lr"] = recipe.lr_at(self.done)
        chosen = next(self.order)[self.share]
        x, y = self.data.train_x[chosen], self.data.train_y[chosen]
        if recipe.augment != "none":
            noise = stream(*self.key, AUGMENT, self.done, ranks.rank())
            x = AUGMENTATIONS[recipe.augment](x, noise)
        with self._chance(), self._precision():
            logits = self.net(x)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, -2), y.flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        zero_dead_(self.model, self.factors)
        self.done += 1

    def _chance(self) -> AbstractContextManager[Any]:
        """Torch's own generator, which dropout draws from, belongs to this step, and is put back."""
        if not self.draws:
            return nullcontext()
        return _seeded(_seed(*self.key, NOISE, self.done, ranks.rank()))

    def _precision(self) -> AbstractContextManager[Any]:
        dtype = PRECISIONS[self.recipe.precision]
        if dtype is None:
            return nullcontext()
        return torch.autocast(self.data.train_x.device.type, dtype)

    def state(self) -> State:
        """A copy of the plain network's state dict as it is now, zeros in place."""
        if self.model is self.plain:
            return copy_state(self.model)
        # A sparse layer has the dense weight of the layer that it stands for as an attribute.
        return {name: _attribute(self.model, name).detach().clone() for name in self.names}

    def tensors(self) -> dict[str, Tensor]:
        """What another Training, made alike, needs to go on from here; see `resume`."""
        moments = self.optimizer.state_dict()["state"]
        return {
            **{f"model/{name}": value for name, value in self.model.state_dict().items()},
            **{
                f"optimizer/{index}/{name}": value
                for index, values in moments.items()
                for name, value in values.items()
                if isinstance(value, Tensor)
            },
        }

    def misfit(self, tensors: Mapping[str, Tensor]) -> str | None:
        """In words, why `tensors` are not those of such a network and optimizer; None if they are."""
        if problem := files.mismatch(files.group(tensors, "model"), self.model.state_dict()):
            return problem
        sizes = {str(index): value.shape for index, value in enumerate(self.model.parameters())}
        for name, value in files.group(tensors, "optimizer").items():
            size = sizes.get(name.partition("/")[0])
            if size is None or (value.dim() and value.shape != size):  # counts of steps have no dimension
                return f"optimizer/{name} of the shape of its parameter expected, got {tuple(value.shape)}"
        return None

    def resume(self, done: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on from step `done` with the tensors that were kept then; ValueError, with nothing changed, if
        they do not fit."""
        if problem := self.misfit(tensors):
            raise ValueError(f"a checkpoint of this network and optimizer is expected: {problem}")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in files.group(tensors, "optimizer").items():
            index, _, what = name.partition("/")
            moments.setdefault(int(index), {})[what] = value
        self.model.load_state_dict(files.group(tensors, "model"))
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.done = done
        self.order = batches(len(self.data.train_y), self.recipe.batch, self.key, done)


class _seeded:
    """Torch's generators seeded inside, and as they were afterwards."""

    def __init__(self, seed: int) -> None:
        self.seed, self.fork = seed, torch.random.fork_rng()

    def __enter__(self) -> None:
        self.fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *error: Any) -> None:
        self.fork.__exit__(*error)


def _draws(model: nn.Module) -> bool:
    """Whether a forward pass may draw from torch's generator; of networks that are not ours nobody knows."""
    if not type(model).__module__.startswith("sparsekern."):
        return True
    dropouts = (module for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd))
    return any(module.p > 0 for module in dropouts)


def _attribute(model: nn.Module, name: str) -> Tensor:
    layer, _, tensor = name.rpartition(".")
    value: Tensor = getattr(model.get_submodule(layer), tensor)
    return value


def steps(
    model: nn.Module, masks: Mapping[str, Tensor], data: Data, recipe: Recipe, key: Key, start: int = 0
) -> Iterator[int]:
    """Train a plain `model` in place from step `start`; yields the iterations done (see `Training`)."""
    training = Training(model, masks, data, recipe, key, start)
    while training.done < recipe.iterations:
        training.step()
        yield training.done
