"""The result of one training run of a search, and its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparsekern._version import __version__
from sparsekern.tickets import files
from sparsekern.tickets.checkpoint import points
from sparsekern.tickets.config import SearchConfig
from sparsekern.tickets.training import CurvePoint, TrainResult, accuracy


def alive_share(masks: Mapping[str, Tensor]) -> float:
    """The share of living weights among all those with a mask, 0 … 1: an exact quotient of two counts."""
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


@dataclass(frozen=True)
class RoundResult(TrainResult):
    """A TrainResult and what was trained: round 0 is dense, `kind` is "ticket" or the control's name."""

    kind: str
    round: int
    masks: dict[str, Tensor]

    @property
    def sparsity(self) -> float:
        """The share of dead weights among all maskable ones, 0 … 1."""
        return 1 - self.density

    @property
    def density(self) -> float:
        """The share of living weights among all maskable ones, 0 … 1."""
        return alive_share(self.masks)


_FIGURES = ("val_accuracy", "test_loss", "test_accuracy", "seconds")


def save_result(path: Path, result: RoundResult, config: SearchConfig) -> None:
    """Write a result to `path` atomically; `config` is kept in the header to tell where it came from."""
    tensors = {
        **files.ungroup("state", result.state),
        **files.ungroup("final", result.final),
        **{f"mask/{name}": files.pack(mask) for name, mask in result.masks.items()},
        "test_predictions": result.test_predictions,
    }
    header = {
        "run": result.kind,
        "round": result.round,
        "early_stop_step": result.early_stop_step,
        "curve": [[point.step, point.val_loss, point.val_accuracy] for point in result.curve],
        "config": config.to_json(),
        **{name: getattr(result, name) for name in _FIGURES},
    }
    files.write(path, "round", tensors, header)


def load_result(
    path: Path,
    kind: str,
    index: int,
    masks: Mapping[str, Tensor],
    config: SearchConfig,
    labels: Tensor,
) -> RoundResult:
    """Read the result that the run `kind` of round `index` with these `masks` gave under `config`.

    `labels` are those of the test images (m,). ValueError for a file that is damaged, of another run,
    configuration or code version, has other masks, or whose test accuracy is not that of its predictions.
    """
    tensors, header = files.read(path, "round")
    stored = SearchConfig.from_json(files.field(header, "config", str, path))
    if (stored.digest, header["code_version"]) != (config.digest, __version__):
        raise ValueError(
            f"{path}: configuration {config.digest} and code {__version__} expected, "
            f"got {stored.digest} and {header['code_version']}"
        )
    if (header.get("run"), header.get("round")) != (kind, index):
        raise ValueError(
            f"{path}: run {kind} of round {index} expected, "
            f"got {header.get('run')!r} of round {header.get('round')!r}"
        )
    state, final = files.group(tensors, "state"), files.group(tensors, "final")
    if problem := files.mismatch(final, state):
        raise ValueError(f"{path}: {problem}")
    found = files.unpack_masks(tensors, state, path)
    if found.keys() != masks.keys() or not all(torch.equal(found[name], masks[name]) for name in masks):
        raise ValueError(f"{path}: its masks are not those that the round before leads to")
    figures = {name: files.field(header, name, float, path) for name in _FIGURES}
    predictions = _predictions(tensors, labels, figures["test_accuracy"], path)
    return RoundResult(
        kind=kind,
        round=index,
        masks=found,
        curve=tuple(CurvePoint(*point) for point in points(files.field(header, "curve", list, path), path)),
        early_stop_step=files.field(header, "early_stop_step", int, path),
        test_predictions=predictions,
        state=state,
        final=final,
        **figures,
    )


def _predictions(tensors: Mapping[str, Tensor], labels: Tensor, stated: float, path: Path) -> Tensor:
    """The predicted classes, whose accuracy must be the one stated."""
    found = tensors.get("test_predictions")
    if found is None:
        raise ValueError(f"{path}: test_predictions expected, got only {sorted(tensors)}")
    if found.dtype != torch.uint8 or found.shape != labels.shape:
        raise ValueError(
            f"{path}: test_predictions: uint8 of shape {tuple(labels.shape)} expected, "
            f"got {found.dtype} of shape {tuple(found.shape)}"
        )
    if (share := accuracy(found, labels)) != stated:
        raise ValueError(f"{path}: test_accuracy {share} expected from its predictions, got {stated}")
    return found
