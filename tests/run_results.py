"""The result of `sparsekern run` with figures that are made up."""

from __future__ import annotations

import math
from typing import Any


def speedup(value: float) -> dict[str, float]:
    return {"value": value, "low": 0.96 * value, "high": 1.05 * value}


def round_entry(number: int, gain: float) -> dict[str, Any]:
    sparsity = 1 - 0.8**number
    accuracy = 0.861 + 0.004 * math.sin(number) - 0.00004 * number**3
    torch_us, best_us = 1684.3 + 7 * math.sin(3 * number), 1391.7 + 9 * math.cos(number)
    sparse_us = min(1400.4 - number, 160 + 2900 * gain * 0.8**number)
    return {
        "round": number,
        "sparsity": sparsity,
        "accuracy": accuracy,
        "accuracy_reinit": accuracy - 0.0006 * number**1.5,
        "val_accuracy": accuracy + 0.003,
        "early_stop_step": 1200 + 100 * number,
        "seeds": [accuracy - 0.003, accuracy + 0.003],
        "time_torch_us": torch_us,
        "time_best_dense_us": best_us,
        "best_dense": "onednn",
        "time_sparse_us": sparse_us,
        "error": 2.5e-7,
        "changed_predictions": 0,
        "speedup_vs_torch": speedup(torch_us / sparse_us),
        "speedup_vs_best_dense": speedup(best_us / sparse_us),
    }


def structure_entry(name: str, block: list[int], gain: float, winner: int) -> dict[str, Any]:
    rounds = [round_entry(number, gain) for number in range(13)]
    layer = {
        "sparsity": 0.8926,
        "block": block,
        "kernel": "avx512_vx1",
        "dense_us": 1012.4,
        "sparse_us": 231.9,
    }
    return {
        "structure": name,
        "block": block,
        "rounds": rounds,
        "winner": {
            **rounds[winner],
            "matched_on_validation": True,
            "matched": True,
            "difference_points": {"value": -0.1, "low": -0.9, "high": 0.7},
        },
        "layers": [
            {"layer": "fc1", **layer, "decision": "swapped", "reason": "4.37x (4.29 to 4.41): faster"},
            {"layer": "fc2", **layer, "decision": "swapped", "reason": "2.11x (2.03 to 2.20): faster"},
            {"layer": "fc3", "decision": "kept", "reason": "0.61x (0.58 to 0.66): slower"},
        ],
    }


def sample_result() -> dict[str, Any]:
    structures = [structure_entry("unstructured", [1, 1], 1.2, 9), structure_entry("16x1", [16, 1], 0.7, 10)]
    winner = structures[1]["winner"]
    return {
        "verdict": "At 89.3 % sparsity lenet300 on fashion-mnist-6k keeps its accuracy and runs 2.9x as fast "
        "as the best dense implementation on this machine, 4.1x as fast as eager torch.",
        "matched": True,
        "structure": "16x1",
        "accuracy_dense": 0.8612,
        "accuracy_ticket": winner["accuracy"],
        "difference_points": winner["difference_points"],
        "sparsity": winner["sparsity"],
        "speedup_vs_torch": winner["speedup_vs_torch"],
        "speedup_vs_best_dense": winner["speedup_vs_best_dense"],
        "tolerance_points": 0.2,
        "batch": 256,
        "machine": {
            "cpu": "AMD EPYC 9B45",
            "threads": 1,
            "isa": "avx512",
            "caches_kib": {"L1d": 48, "L2": 1024},
        },
        "command": "sparsekern run lenet300 --seeds 2 --out 'my report'",
        "seconds": 143.2,
        "seeds": [0, 1],
        "structures": structures,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "config": {"rounds": 12, "rate": 0.2, "recipe": {"optimizer": "adam", "lr": 0.0012}},
    }
