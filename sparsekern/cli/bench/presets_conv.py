"""PRESETS_CONV2D: which convolutions `sparsekern bench conv2d` times. No torch is imported here: the parser
reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparsekern.cli.bench.presets import Pair

MEMORY_FORMATS = ("contiguous", "channels_last")


@dataclass(frozen=True)
class ConvShape:
    """A layer and the square map that comes in: `channels` are (in, out). Without `padding` the map keeps its
    size at stride 1, or an even kernel makes it smaller by one."""

    channels: Pair
    kernel: int
    map: int
    stride: int = 1
    padding: int | None = None
    dilation: int = 1


@dataclass(frozen=True)
class ConvGrid:
    """Every combination of what its fields list; blocks are (out, in) of the weight as a matrix, which is
    (out, in kh kw)."""

    shapes: tuple[ConvShape, ...]
    blocks: tuple[Pair, ...] = ((1, 1),)
    batches: tuple[int, ...] = (1,)
    sparsities: tuple[float, ...] = (0.9,)
    dtype: str = "float32"
    memory_format: str = "contiguous"


@dataclass(frozen=True)
class ConvPreset:
    """Grids, and how many seconds one case may take. Without grids the cases come from files: dlmc.py."""

    grids: tuple[ConvGrid, ...]
    budget_s: float


# Layers of ResNet-18 and ResNet-50, by the stage they are in; then what is less common.
_STAGE1 = ConvShape((64, 64), 3, 56)
_STAGE2 = ConvShape((128, 128), 3, 28)
_STAGE3 = ConvShape((256, 256), 3, 14)
_STAGE4 = ConvShape((512, 512), 3, 7)
_EXPAND = ConvShape((256, 1024), 1, 14)
_DOWN = ConvShape((128, 256), 3, 28, stride=2)
_DILATED = replace(_STAGE3, padding=2, dilation=2)
_STEM = ConvShape((3, 64), 7, 224, stride=2, padding=3)
_WIDE = ConvShape((64, 192), 5, 27, padding=2)

PRESETS_CONV2D = {
    "quick": ConvPreset((ConvGrid((_STAGE3, _EXPAND), sparsities=(0.8, 0.9, 0.95)),), budget_s=1.0),
    "goals": ConvPreset(
        (
            ConvGrid((_STAGE3,), sparsities=(0.9, 0.95)),
            ConvGrid((_STAGE3,), batches=(16,)),
            ConvGrid((_STAGE2, _STAGE1, _EXPAND)),
            ConvGrid((_STAGE3, _EXPAND), blocks=((16, 1),), memory_format="channels_last"),
            ConvGrid((_DOWN, _DILATED, _STEM, _WIDE)),
        ),
        budget_s=3.0,
    ),
    "full": ConvPreset(
        tuple(
            ConvGrid(
                (_STAGE1, _STAGE2, _STAGE3, _STAGE4, _EXPAND, _DOWN, _DILATED, _STEM, _WIDE),
                blocks=blocks,
                batches=(1, 4, 16),
                sparsities=(0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
                memory_format=memory_format,
            )
            for memory_format, blocks in (
                ("contiguous", ((1, 1), (4, 1), (8, 1))),
                ("channels_last", ((8, 1), (16, 1), (32, 1))),
            )
        ),
        budget_s=1.0,
    ),
    "survey": ConvPreset(
        tuple(
            ConvGrid(
                (_STAGE1, _STAGE2, _STAGE3, _STAGE4, _EXPAND, _DOWN, _DILATED, _STEM, _WIDE),
                blocks=(block,),
                sparsities=(0.8, 0.9, 0.95),
                memory_format=memory_format,
            )
            for memory_format, block in (("contiguous", (1, 1)), ("channels_last", (16, 1)))
        ),
        budget_s=2.0,
    ),
    "dlmc": ConvPreset((), budget_s=1.0),
}
"""name -> what is timed: a look, the goals of the project, everything (hours), what `bench full` times, real
masks of ResNet-50."""
