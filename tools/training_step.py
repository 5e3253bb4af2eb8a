"""What a training step costs on sparse kernels, against the same step with dense layers, dead weights zeroed.

    python tools/training_step.py [--model lenet300 --data fashion-mnist-6k] [--block 1x1] [--batch 60]

One line for each share of zeros: both steps timed interleaved on one thread, forward, backward and optimizer.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from sparsekern import zoo
from sparsekern.bench import interleave, ratio
from sparsekern.cli.arguments import block, positive
from sparsekern.cli.bench.cases import random_mask
from sparsekern.cli.searches import kernels_of
from sparsekern.tickets import SearchConfig, Training, task
from sparsekern.tickets.controls import full_masks

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="lenet300")
    parser.add_argument("--data", default="fashion-mnist-6k")
    parser.add_argument("--block", type=block, default=(1, 1))
    parser.add_argument("--batch", type=positive, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = zoo.dataset(options.data)
    chosen = task(options.model, options.data, batch=options.batch, iterations=10**9, lr=1e-3)
    print("| zeros | masked dense us | sparse kernels us | ratio |\n|---|---|---|---|")
    for sparsity in SPARSITIES:
        config = SearchConfig(chosen, block=options.block, sparse_from=sparsity / 2)
        draw = partial(zoo.model, options.model)
        chance = torch.Generator().manual_seed(0)
        masks = {
            name: random_mask(mask.shape, options.block, sparsity, chance)
            for name, mask in full_masks(draw()).items()
        }
        dense, sparse = (
            Training(draw(torch.Generator().manual_seed(0)), masks, data, chosen.recipe, (0,), swap=swap)
            for swap in (None, kernels_of(config))
        )
        times = interleave({"dense": dense.step, "sparse": sparse.step}, budget_s=5, rounds=40)
        found = ratio(times["dense"], times["sparse"])
        medians = (f"{times[name].median_us:.0f}" for name in ("dense", "sparse"))
        print(f"| {100 * sparsity:g} % | {' | '.join(medians)} | {found} |", flush=True)


if __name__ == "__main__":
    main()
