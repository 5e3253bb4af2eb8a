"""Accuracy of one really trained network after one-shot pruning: every criterion, structure and sparsity.

python tools/one_shot_table.py --data fashion-mnist --data-dir DIR --out one-shot.json

Trains LeNet-300-100, prunes copies of it without any training after, and prints a table of test accuracies in
Markdown. "sparsegpt, updated" is `sparsegpt_` from the first layer to the last, "regrouped" an unstructured
ticket of the magnitude criterion made into blocks by `regroup_`. A criterion that cannot rank such a network
is named with its reason.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern import tickets, zoo
from sparsekern.bench import machine
from sparsekern.masks import maskable
from sparsekern.prune import CRITERIA, Context, Movement, layer_inputs, prune_, sparsegpt_
from sparsekern.prune.regroup import regroup_
from sparsekern.tickets.stepper import Training, batches, stream
from sparsekern.tickets.training import accuracy, evaluate, train

STRUCTURES = {"unstructured": (1, 1), "16x1": (16, 1), "32x1": (32, 1), "64x16": (64, 16)}
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
SAMPLES = 512  # of the training images, for criteria that look at data
MOVING_STEPS = 200  # of training during which movement is seen

Pruner = Callable[[nn.Module, float, tuple[int, int]], object]


def main() -> None:
    """Train, prune, print."""
    options = _options()
    torch.set_num_threads(1)
    task = tickets.task("lenet300", options.data, options.data_dir, iterations=options.iterations)
    data = zoo.dataset(task.data, task.data_dir)
    model = zoo.model(task.model, stream(options.seed, 0))
    began = time.perf_counter()
    dense = train(Training(model, {}, data, task.recipe, (options.seed, 1))).test_accuracy
    seconds = time.perf_counter() - began
    test = accuracy(evaluate(model, data.test_x, data.test_y)[1], data.test_y)
    rows = list(_rows(model, data, options.seed, task))
    found = {
        "task": {"model": task.model, "data": task.data, **vars(task.recipe)},
        "seed": options.seed,
        "training_s": round(seconds, 1),
        "test_accuracy": {"early_stop": dense, "last": test},
        "machine": machine.describe(),
        "versions": machine.versions(),
        "rows": rows,
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"dense: {test:.2%}\n\n{_table(rows)}")


def _rows(model: nn.Module, data: Any, seed: int, task: tickets.Task) -> Iterator[dict[str, Any]]:
    for name, prune in _pruners(model, data, seed, task).items():
        for structure, block in STRUCTURES.items():
            if name == "regrouped" and block == (1, 1):
                continue
            for sparsity in SPARSITIES:
                pruned = copy.deepcopy(model)
                row: dict[str, Any] = {"criterion": name, "structure": structure, "sparsity": sparsity}
                try:
                    prune(pruned, sparsity, block)
                    predicted = evaluate(pruned, data.test_x, data.test_y)[1]
                    yield row | {"test_accuracy": accuracy(predicted, data.test_y)}
                except ValueError as error:
                    yield row | {"refused": str(error)}


def _pruners(model: nn.Module, data: Any, seed: int, task: tickets.Task) -> dict[str, Pruner]:
    x, y = data.train_x[:SAMPLES], data.train_y[:SAMPLES]
    context = Context(generator=stream(seed, 2), batches=tuple(zip(x.split(64), y.split(64), strict=True)))
    moved = replace(context, learned=_movement(model, data, task, seed))

    def by(criterion: str) -> Pruner:
        known = moved if criterion == "movement" else context
        return lambda net, sparsity, block: prune_(net, sparsity, criterion, block, context=known)

    pruners: dict[str, Pruner] = {criterion: by(criterion) for criterion in CRITERIA}
    pruners["sparsegpt, updated"] = lambda net, sparsity, block: _sparsegpt(net, context, sparsity, block)
    pruners["regrouped"] = lambda net, sparsity, block: _regrouped(net, x[:2], sparsity, block)
    return pruners


def _movement(model: nn.Module, data: Any, task: tickets.Task, seed: int) -> dict[str, Tensor]:
    """Scores from training a copy some steps more."""
    net = copy.deepcopy(model)
    seen = Movement(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    order = batches(len(data.train_y), task.recipe.batch, (seed, 3))
    for _, chosen in zip(range(MOVING_STEPS), order, strict=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(data.train_x[chosen]), data.train_y[chosen]).backward()
        seen.observe()
        optimizer.step()
    return seen.scores


def _sparsegpt(net: nn.Module, context: Context, sparsity: float, block: tuple[int, int]) -> None:
    known = replace(context, model=net)
    for name, layer in maskable(net).items():
        sparsegpt_(layer, layer_inputs(known.of(f"{name}.weight")), sparsity, block)


def _regrouped(net: nn.Module, x: Tensor, sparsity: float, block: tuple[int, int]) -> None:
    prune_(net, sparsity)
    regroup_(net, block, x)


def _table(rows: list[dict[str, Any]]) -> str:
    head = ["criterion", "structure", *(f"{sparsity:.0%}" for sparsity in SPARSITIES)]
    lines = [head, ["---"] * len(head)]
    kinds = dict.fromkeys((row["criterion"], row["structure"]) for row in rows)
    for kind in kinds:
        own = [row for row in rows if (row["criterion"], row["structure"]) == kind]
        if "refused" in own[0]:
            lines.append([*kind, own[0]["refused"], *[""] * (len(SPARSITIES) - 1)])
        else:
            lines.append([*kind, *(f"{row['test_accuracy']:.1%}" for row in own)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Accuracy after one-shot pruning, in a table.")
    parser.add_argument("--data", default="fashion-mnist", help="data set of the zoo (%(default)s)")
    parser.add_argument("--data-dir", type=Path, help="folder of the full data sets")
    parser.add_argument("--iterations", type=int, default=10_000, help="training steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
