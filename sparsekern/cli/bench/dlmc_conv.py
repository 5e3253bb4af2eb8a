"""The layers of the Deep Learning Matrix Collection's ResNet-50s as the convolutions that they are.

ResNet-50 with its strides in the 3x3 layers, on images of 224 pixels. A layer's name says where it stands,
its rows how many positions its output has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isqrt

from torch import Tensor

from sparsekern.cli.bench.dlmc import Layer
from sparsekern.cli.bench.presets_conv import ConvShape

CLASSIFIER = "final_dense"

# Where a stage begins, its 3x3 layer and the 1x1 layer beside the block take every second position; the first
# stage comes after a pooling that has done so.
_HALVES = re.compile(r"bottleneck_(2|projection)_block_group_projection_block_group[2-9]")


def convolutions(layers: Sequence[Layer]) -> list[Layer]:
    """All but the classifier, which is a linear layer."""
    return [layer for layer in layers if layer.name != CLASSIFIER]


def shape_of(layer: Layer) -> ConvShape:
    """Kernel, stride and map of a layer; ValueError for a name or sizes that no layer of a ResNet-50 has."""
    outputs, columns = layer.shape
    if layer.name == "initial_conv":
        kernel, stride = 7, 2
    elif match := re.match(r"bottleneck_(1|2|3|projection)_", layer.name):
        kernel, stride = 3 if match[1] == "2" else 1, 2 if _HALVES.fullmatch(layer.name) else 1
    else:
        raise ValueError(
            f"{layer.file}, {layer.name}: expected the name of a layer of ResNet-50, as initial_conv or "
            "bottleneck_1_..."
        )
    side, inputs = isqrt(layer.rows), columns // kernel**2
    if side**2 != layer.rows or inputs * kernel**2 != columns:
        raise ValueError(
            f"{layer.file}, {layer.name}: expected a square map and {kernel}x{kernel} weights for each "
            f"input, got {layer.rows} rows and {columns} columns"
        )
    return ConvShape((inputs, outputs), kernel, side * stride, stride, kernel // 2)


def mask_of(layer: Layer, shape: ConvShape) -> Tensor:
    """bool (out, in, kh, kw); the files have (out, kh kw in)."""
    inputs, outputs = shape.channels
    return layer.mask.view(outputs, shape.kernel, shape.kernel, inputs).permute(0, 3, 1, 2).contiguous()
