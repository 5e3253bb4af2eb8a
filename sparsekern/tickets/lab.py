"""What all the runs of one search share: its networks, its files, its log."""

from __future__ import annotations

import inspect
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.bench.atomic import LEFTOVERS
from sparsekern.prune.distributed import masks_digest
from sparsekern.tickets import files, ranks
from sparsekern.tickets.checkpoint import Checkpoint, Progressed
from sparsekern.tickets.config import SearchConfig
from sparsekern.tickets.controls import INITIAL, ORDER, Round, Setup
from sparsekern.tickets.results import RoundResult, alive_share, load_result, save_result
from sparsekern.tickets.stepper import State, Swap, Training, copy_state, steps, stream
from sparsekern.tickets.training import CurvePoint, Progress, train

Value = TypeVar("Value")
TICKET = "ticket"
LOG = "log.jsonl"


def draw(config: SearchConfig, width: float, *key: int, data: zoo.Data | None = None) -> nn.Module:
    """A new network of the task from the initialiser; `key` says what for. Those of libraries are made for
    the images and classes of `data`."""
    name, chance = config.task.model, stream(config.seed, *key)
    known = inspect.signature(zoo.MODELS[name]).parameters if name in zoo.MODELS else ()
    options: dict[str, Any] = {"width": width} if width != 1 else {}
    if "dropout" in known or config.task.recipe.dropout:
        options["dropout"] = config.task.recipe.dropout
    if ":" in name and data is not None:
        options |= {"classes": data.classes, "image": tuple(data.train_x.shape[1:])}
    return zoo.model(name, chance, **options)


def rewind_point(config: SearchConfig, data: zoo.Data) -> tuple[State, State]:
    """(θ_0, θ_k): the initialisation, and it after the first k = `rewind_to` iterations of the dense run."""
    model = draw(config, 1.0, INITIAL, data=data)
    initial = copy_state(model)
    if config.rewind_to:
        model.to(data.train_x.device)
        dense_run = steps(model, {}, data, config.task.recipe, (config.seed, ORDER, 0))
        next(done for done in dense_run if done == config.rewind_to)
    return initial, copy_state(model.cpu())


def on_device(data: zoo.Data, device: str) -> zoo.Data:
    """The data with all its tensors there."""
    values: dict[str, Any] = {field.name: getattr(data, field.name) for field in fields(data)}
    moved: dict[str, Any] = {
        name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)
    }
    return replace(data, **moved)


def tidy(folder: Path) -> None:
    """Drop what a kill or a full disk may have left in the folder of a search: half files, and half a line at
    the end of the log, so that the next one stands on its own."""
    for leftover in folder.glob(LEFTOVERS):
        leftover.unlink(missing_ok=True)
    log = folder / LOG
    if log.exists():
        os.truncate(log, log.read_bytes().rfind(b"\n") + 1)


@dataclass(frozen=True)
class Lab:
    """Trains the runs of one search, or takes them from its `folder`; None keeps nothing."""

    config: SearchConfig
    data: zoo.Data
    folder: Path | None
    progress: Progress | None
    swap: Swap | None

    def round(self, index: int, ticket: Setup, rewind: State, before: State) -> Round:
        """What the controls of a round may look at; see `Round`."""
        config = self.config
        return Round(
            index=index,
            ticket=ticket,
            rewind=rewind,
            before=before,
            draw=partial(draw, config, data=self.data),
            x=self.data.train_x[:2].cpu(),
            recipe=config.task.recipe,
            block=config.block,
            seed=config.seed,
        )

    def run(self, kind: str, index: int, setup: Setup) -> RoundResult:
        """The result of one run: read back if its file is there and whole, else trained and written."""
        path = (
            None if self.folder is None else self.folder / f"{kind.replace(':', '-')}-{index:02}.safetensors"
        )
        result = ranks.shared(lambda: self._stored(path, kind, index, setup.masks))
        resumed = result is not None
        if result is None:
            result = self._train(kind, index, setup, path)
            if path is not None:
                save_result(path, result, self.config)
                self._checkpoint(path, kind, index, setup.masks).remove()
        self._report(
            "done",
            kind,
            index,
            setup.masks,
            val_accuracy=result.val_accuracy,
            test_accuracy=result.test_accuracy,
            seconds=result.seconds,
            resumed=resumed,
        )
        return result

    def _stored(
        self, path: Path | None, kind: str, index: int, masks: dict[str, Tensor]
    ) -> RoundResult | None:
        if path is None or not path.exists():
            return None
        labels = self.data.test_y.cpu()
        return _trusted(lambda: load_result(path, kind, index, masks, self.config, labels))

    def _checkpoint(self, path: Path, kind: str, index: int, masks: dict[str, Tensor]) -> Checkpoint:
        run = {
            "config": self.config.digest,
            "kind": kind,
            "round": index,
            "masks": masks_digest(masks),
            "device": self.data.train_x.device.type,
            "ranks": ranks.world(),
        }
        return Checkpoint(path.with_suffix(".progress"), run)

    def _train(self, kind: str, index: int, setup: Setup, path: Path | None) -> RoundResult:
        self._report("start", kind, index, setup.masks, iterations=setup.recipe.iterations)

        def watch(point: CurvePoint) -> None:
            self._report("eval", kind, index, setup.masks, **asdict(point))

        model = draw(self.config, setup.width, INITIAL, data=self.data)
        model.load_state_dict(setup.state)
        model.to(self.data.train_x.device)
        key = (self.config.seed, ORDER, index, *([setup.order] if setup.order else []))
        training = Training(model, setup.masks, self.data, setup.recipe, key, setup.start, self.swap)
        checkpoint = None if path is None else self._checkpoint(path, kind, index, setup.masks)
        found = ranks.shared(
            lambda: None if checkpoint is None else _trusted(partial(_fitting, checkpoint, training))
        )
        result = train(training, watch, checkpoint, found)
        return RoundResult(kind=kind, round=index, masks=setup.masks, **vars(result))

    def _report(self, event: str, kind: str, index: int, masks: dict[str, Tensor], **details: object) -> None:
        if ranks.rank():
            return
        who = {"event": event, "kind": kind, "round": index, "sparsity": 1 - alive_share(masks)}
        if self.folder is not None and not details.get("resumed"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"time": round(time.time(), 3), **who, **details}) + "\n")
        if self.progress is not None:
            self.progress({**who, **details})


def _fitting(checkpoint: Checkpoint, training: Training) -> Progressed | None:
    """The checkpoint, if there is one; ValueError if `training` cannot go on from it. Which layers a swap
    makes sparse is measured, and may differ from one start to the next."""
    found = checkpoint.load()
    if found is None:
        return None
    if problem := training.misfit(found.tensors) or files.mismatch(found.best, training.state()):
        raise ValueError(f"{checkpoint.path}: {problem}")
    return found


def _trusted(load: Callable[[], Value]) -> Value | None:
    """What `load` gives; None, and a RuntimeWarning, for a file that cannot be trusted. Called by what
    `ranks.shared` calls for a step of a run, so that the warning names the line that called `search`."""
    try:
        return load()
    except ValueError as error:
        warnings.warn(f"{error}; this run is repeated", RuntimeWarning, stacklevel=7)
        return None
