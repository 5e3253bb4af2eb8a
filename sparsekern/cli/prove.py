"""The proof of one round: its network eager, on the best dense, and swapped; first checked, then timed."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern.bench import best_dense_model, hardest, interleave, ratio
from sparsekern.nn import SwapReport, swap_

# Largest error of a swapped network against float64, in units of its largest output; float32 rounds to 6e-8.
ERROR_LIMIT = 1e-4


@dataclass(frozen=True)
class Proof:
    """What was measured of one round: `figures` are for report.json, `swap` tells of every layer."""

    figures: dict[str, Any]
    swap: SwapReport


def prove(model: nn.Module, images: Tensor, batch: int, seed: int = 0) -> Proof:
    """Swap a copy of `model` and time it against the model itself and the best dense there is.

    `model` has its trained weights with zeros in place and stays as it is. The first `batch` of the test
    `images` (m, ...) are timed, with torch's present number of threads. The figures: `time_torch_us`,
    `time_best_dense_us` and `best_dense` (the name of the rival that sparse beats by least),
    `time_sparse_us`, the two speed-ups with their intervals, `error` (of the swapped network against float64,
    relative to the largest output) and `changed_predictions` (on all `images`, against eager torch).
    RuntimeError if the swapped network computes something else.
    """
    model.eval()
    x = images[:batch]
    swapped = copy.deepcopy(model)
    swap = swap_(swapped, x)
    with torch.inference_mode():
        figures: dict[str, Any] = {"error": _error(model, swapped, x)}
        figures["changed_predictions"] = int((model(images).argmax(-1) != swapped(images).argmax(-1)).sum())
        rivals = best_dense_model(model, x).items()
        dense = {name: rival for name, rival in rivals if isinstance(rival, nn.Module)}
        calls = {name: partial(network, x) for name, network in {**dense, "sparse": swapped}.items()}
        times = interleave(calls, budget_s=0.5, seed=seed)
    best, speedup = hardest(times, dense, "sparse")
    figures |= {
        "time_torch_us": times["torch"].median_us,
        "time_best_dense_us": times[best].median_us,
        "best_dense": best,
        "time_sparse_us": times["sparse"].median_us,
        "speedup_vs_torch": asdict(ratio(times["torch"], times["sparse"])),
        "speedup_vs_best_dense": asdict(speedup),
    }
    return Proof(figures, swap)


def _error(model: nn.Module, swapped: nn.Module, x: Tensor) -> float:
    """Largest error of `swapped` on x against `model` in float64, relative to the largest output."""
    truth = copy.deepcopy(model).double()(x.double() if x.is_floating_point() else x)
    error = float((swapped(x).double() - truth).abs().max() / truth.abs().max())
    if not error <= ERROR_LIMIT:
        raise RuntimeError(
            f"the swapped network is off by {error:.1e} of its largest output, expected at most {ERROR_LIMIT}"
        )
    return error
