"""Accuracy of block tickets after training: regrouped ones against blocks in every round and blocks at once.

python tools/regroup_tickets.py --data fashion-mnist --data-dir DIR --out regroup-tickets.json

For each seed: rounds of magnitude pruning find an unstructured ticket of LeNet-300-100. Its trained weights
are made into blocks, rewound and trained ("regrouped"; "in place" is the same without moving any unit). The
controls have blocks of the same shape and the same density of each layer: "rounds", which drop whole blocks
from the start, and "at once", blocks of the dense network after one training. All rewind to the same weights
and meet the same batches in their last training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from sparsekern import tickets, zoo
from sparsekern.bench import machine
from sparsekern.masks import mask_, masks_of
from sparsekern.prune import permuted, prune_, regroup_
from sparsekern.tickets.controls import ORDER
from sparsekern.tickets.results import RoundResult, alive_share
from sparsekern.tickets.stepper import Training

BLOCKS = {"16x1": (16, 1), "32x1": (32, 1)}
Masks = dict[str, Tensor]


def main() -> None:
    """Search, regroup, train, print."""
    options = _options()
    torch.set_num_threads(1)
    began = time.process_time()
    rows = [row for seed in options.seeds for row in _rows(options, seed)]
    found = {
        "arguments": {name: getattr(options, name) for name in ("data", "rate", "rounds", "seeds")},
        "recipe": vars(_config(options, 0, (1, 1)).task.recipe),
        "cpu_s": round(time.process_time() - began),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "rows": rows,
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(_table(rows))


def _config(options: argparse.Namespace, seed: int, block: tuple[int, int]) -> tickets.SearchConfig:
    task = tickets.task("lenet300", options.data, options.data_dir, iterations=options.iterations)
    rounds, rewind_to = max(options.rounds), options.iterations // 20
    return tickets.SearchConfig(task, rounds, options.rate, rewind_to, block, seed=seed, controls=())


def _rows(options: argparse.Namespace, seed: int) -> Iterator[dict[str, Any]]:
    """The dense network and its unstructured tickets, then all that is made of blocks."""
    plain = tickets.search(_config(options, seed, (1, 1)))
    yield _row(seed, "dense", "", plain.dense)
    for index in options.rounds:
        yield _row(seed, "unstructured", "", plain.rounds[index])
    for name, block in BLOCKS.items():
        grouped = tickets.search(_config(options, seed, block))
        for index in options.rounds:
            yield _row(seed, "rounds", name, grouped.rounds[index])
            for how, (masks, start, kept) in _made(plain, index, block).items():
                yield _row(seed, how, name, _trained(plain, index, masks, start)) | kept


def _made(
    plain: tickets.Search, index: int, block: tuple[int, int]
) -> dict[str, tuple[Masks, Masks, dict[str, Any]]]:
    """Masks of blocks, the state to start from, and the magnitude kept, by how they were made."""
    ticket, found = plain.rounds[index], {}
    example = torch.zeros(1, *zoo.MODELS[plain.config.task.model].image)
    for how, permute in (("regrouped", True), ("in place", False)):
        model = zoo.model(plain.config.task.model)
        model.load_state_dict(ticket.final)
        for name, mask in ticket.masks.items():
            mask_(model.get_submodule(name.rpartition(".")[0]), mask)
        report = regroup_(model, block, example, permute=permute)
        kept = {layer.name: layer.kept for layer in report.layers}
        found[how] = masks_of(model), permuted(plain.rewind, report.order), {"kept": kept}
    model = zoo.model(plain.config.task.model)
    model.load_state_dict(plain.dense.final)
    sparsity = {name: 1 - float(mask.double().mean()) for name, mask in ticket.masks.items()}
    found["at once"] = prune_(model, sparsity, "magnitude", block), plain.rewind, {}
    return found


def _trained(plain: tickets.Search, index: int, masks: Masks, start: Masks) -> RoundResult:
    config = plain.config
    data = zoo.dataset(config.task.data, config.task.data_dir)
    model = zoo.model(config.task.model)
    model.load_state_dict(start)
    key = (config.seed, ORDER, index)
    result = tickets.train(Training(model, masks, data, config.task.recipe, key, config.rewind_to))
    return RoundResult(kind="ticket", round=index, masks=masks, **vars(result))


def _row(seed: int, how: str, block: str, result: RoundResult) -> dict[str, Any]:
    print(f"seed {seed} {how} {block} round {result.round}: {result.test_accuracy:.2%}", flush=True)
    return {
        "seed": seed,
        "how": how,
        "block": block,
        "round": result.round,
        "density": alive_share(result.masks),
        "val_accuracy": result.val_accuracy,
        "test_accuracy": result.test_accuracy,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    """Test accuracies at early stop, of all seeds, by round and way of finding the blocks."""
    lines = ["| density | blocks | found by | test accuracy of each seed |", "|---|---|---|---|"]
    for kind in dict.fromkeys((row["round"], row["block"], row["how"]) for row in rows):
        own = [row for row in rows if (row["round"], row["block"], row["how"]) == kind]
        density = mean(row["density"] for row in own)
        accuracies = " ".join(f"{row['test_accuracy']:.2%}" for row in own)
        lines.append(f"| {density:.1%} | {kind[1]} | {kind[2]} | {accuracies} |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Accuracy of block tickets after training, in a table.")
    parser.add_argument("--data", default="fashion-mnist", help="data set of the zoo (%(default)s)")
    parser.add_argument("--data-dir", type=Path, help="folder of the full data sets")
    parser.add_argument("--iterations", type=int, default=2_000, help="of each training (%(default)s)")
    parser.add_argument("--rate", type=float, default=0.3, help="dropped in a round (%(default)s)")
    parser.add_argument("--rounds", type=int, nargs="+", default=[4, 7], help="to look at (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="(%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
