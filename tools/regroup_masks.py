"""What regrouping brings on real masks: the pruned ResNet-50s of the Deep Learning Matrix Collection.

python tools/regroup_masks.py --data-dir DIR --out regroup-masks.json

Of each layer only the mask is known. So every weight alive counts one, and the figure is the share of them
that the best blocks hold, as many blocks as make up the mask's own density: in the order that the rows came
in ("before"), and in the one that `regroup_` finds ("after"). A random mask of the same size is the control.
Rows are free to move. Of a 1x1 convolution all columns are too; of a 3x3 one, whole input channels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern.bench import machine
from sparsekern.cli.bench import dlmc
from sparsekern.masks import mask_
from sparsekern.prune import regroup_

BLOCKS = {"16x1": (16, 1), "32x1": (32, 1), "64x16": (64, 16)}
LAYERS = (
    "bottleneck_2_block_group2_1_1",
    "bottleneck_1_block_group3_1_1",
    "bottleneck_2_block_group3_1_1",
    "bottleneck_3_block_group3_1_1",
)
FILES = "rn50_magnitude_pruning"


def main() -> None:
    """Regroup every layer in every block, print."""
    options = _options()
    torch.set_num_threads(1)
    began = time.process_time()
    rows = list(_rows(options.data_dir))
    found = {
        "cpu_s": round(time.process_time() - began),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "rows": rows,
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(_table(rows))


def _rows(data_dir: Path) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    for layer in dlmc.layers(data_dir):
        if layer.name in LAYERS and layer.file.startswith(FILES):
            mask = layer.mask
            chance = mask.flatten()[torch.randperm(mask.numel(), generator=generator)].reshape(mask.shape)
            for name, block in BLOCKS.items():
                before, after = _kept(mask, layer.name, block)
                yield {
                    "file": layer.file,
                    "layer": layer.name,
                    "shape": layer.shape,
                    "density": float(mask.double().mean()),
                    "block": name,
                    "before": before,
                    "after": after,
                    "random": _kept(chance, layer.name, block),
                }
                print(layer.file, layer.name, name, f"{before:.1%} {after:.1%}", flush=True)


def _kept(mask: Tensor, name: str, block: tuple[int, int]) -> tuple[float, float]:
    """The share of the mask in its best blocks, before and after units moved."""
    side = 3 if "_2_block" in name else 1
    outputs, inputs = len(mask), mask.shape[1] // side**2
    # Columns are the kernel's places, and for each all input channels.
    alive = mask.reshape(outputs, side, side, inputs).permute(0, 3, 1, 2)
    model = nn.Sequential(nn.Conv2d(1, inputs, 1), nn.Conv2d(inputs, outputs, side), nn.Conv2d(outputs, 1, 1))
    nn.init.ones_(model[1].weight)
    mask_(model[1], alive)
    (layer,) = regroup_(model, block, torch.zeros(1, 1, side, side)).layers
    return layer.kept_before, layer.kept


def _table(rows: list[dict[str, Any]]) -> str:
    """Shares before and after by file and block, the least and the most of all layers."""
    lines = ["| masks | blocks | before | after | random, before | random, after |", "|---" * 6 + "|"]
    for file, block in dict.fromkeys((row["file"], row["block"]) for row in rows):
        own = [row for row in rows if (row["file"], row["block"]) == (file, block)]
        columns = (
            [row["before"] for row in own],
            [row["after"] for row in own],
            [row["random"][0] for row in own],
            [row["random"][1] for row in own],
        )
        spans = [f"{min(values):.1%} … {max(values):.1%}" for values in columns]
        lines.append(f"| {file.removesuffix('.npz')} | {block} | {' | '.join(spans)} |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What regrouping brings on real masks, in a table.")
    parser.add_argument("--data-dir", type=Path, help="folder of the collection, or with dlmc/ in it")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
