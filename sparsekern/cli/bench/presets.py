"""PRESETS: which products `sparsekern bench linear` times. No torch is imported here: the parser reads it."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[int, int]

DTYPES = ("float32", "bfloat16", "float16")
INT8 = "int8"


@dataclass(frozen=True)
class Grid:
    """Every combination of what its fields list; shapes are (n, k), blocks (out, in), batches rows m."""

    shapes: tuple[Pair, ...]
    blocks: tuple[Pair, ...]
    batches: tuple[int, ...]
    sparsities: tuple[float, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Preset:
    """Grids, and how many seconds one case may take. Without grids the cases come from files: dlmc.py."""

    grids: tuple[Grid, ...]
    budget_s: float


_768, _4096 = (768, 768), (4096, 4096)
_ONE = (1, 1)

PRESETS = {
    "quick": Preset((Grid((_768,), (_ONE, (16, 1)), (1, 16, 128), (0.8, 0.9, 0.95)),), budget_s=1.0),
    "goals": Preset(
        (
            Grid((_768,), (_ONE,), (128,), (0.8, 0.9, 0.95)),
            Grid((_768,), (_ONE,), (1024,), (0.9,)),
            Grid((_4096,), (_ONE,), (128,), (0.9,)),
            Grid((_768,), (_ONE,), (16,), (0.9,)),
            Grid((_768,), (_ONE,), (1,), (0.9,)),
            Grid((_4096,), (_ONE,), (1,), (0.9, 0.8)),
            Grid((_768,), ((8, 1), (16, 1), (32, 1)), (128,), (0.9,)),
            Grid((_4096,), ((16, 1),), (1,), (0.9,)),
            Grid((_768,), ((16, 2),), (128,), (0.9,), "bfloat16"),
            Grid((_768,), ((16, 4),), (128,), (0.9,), INT8),
        ),
        budget_s=3.0,
    ),
    "full": Preset(
        (
            Grid(
                shapes=(_768, (3072, 768), (768, 3072), (1024, 1024), _4096),
                blocks=(_ONE, (4, 1), (8, 1), (16, 1), (32, 1)),
                batches=(1, 2, 3, 5, 8, 13, 16, 17, 32, 33, 64, 100, 128, 512, 1024),
                sparsities=(0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
            ),
        ),
        budget_s=1.0,
    ),
    "survey": Preset(
        (
            Grid(
                shapes=(_768, (3072, 768), (768, 3072), _4096),
                blocks=(_ONE, (16, 1)),
                batches=(1, 16, 128),
                sparsities=(0.5, 0.8, 0.9, 0.95),
            ),
        ),
        budget_s=2.0,
    ),
    "dlmc": Preset((), budget_s=1.0),
}
"""name -> what is timed: a look, the goals of the project, everything (hours), what `bench full` times, real
masks of ResNet-50."""

NETWORKS = ("conv6", "resnet20", "vgg19", "resnet18", "alexnet")
"""Of the zoo: what `sparsekern bench network` times when it is given no names."""
