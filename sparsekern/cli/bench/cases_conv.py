"""Convolutions to time: y = conv(x) + b."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekern.bench import fast_rounding
from sparsekern.cli.bench.cases import Call, Tensors, Truth, check_fit, random_mask, rounding_limit
from sparsekern.cli.bench.presets import Pair
from sparsekern.cli.bench.presets_conv import ConvGrid, ConvPreset, ConvShape
from sparsekern.cli.bench.rivals_conv import CSR_RIVALS_CONV2D, DENSE_RIVALS_CONV2D, prepare_conv2d
from sparsekern.nn import SparseConv2d

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class ConvCase:
    """A layer of square kernel on `batch` square maps of `map` pixels a side; whole blocks of its weight as a
    matrix, (out, in kh kw), are zero. Weight and x lie in `memory_format`."""

    batch: int
    channels: Pair
    kernel: int
    map: int
    stride: int
    padding: int
    dilation: int
    sparsity: float
    block: Pair
    dtype: str = "float32"
    memory_format: str = "contiguous"

    op: ClassVar[str] = "conv2d"
    dense_rivals: ClassVar[Sequence[str]] = DENSE_RIVALS_CONV2D
    csr_rivals: ClassVar[Sequence[str]] = CSR_RIVALS_CONV2D
    first_column: ClassVar[str] = "x, kernel to outputs"

    def __str__(self) -> str:
        share = f"{100 * self.sparsity:.4g}%"
        name = f"n{self.batch}-{self.channels[0]}to{self.channels[1]}-{self._kernel}-map{self.map}"
        return f"{name}-{share}-{self.block[0]}x{self.block[1]}-{self.dtype}-{self.memory_format}"

    @property
    def sizes(self) -> str:
        """As in 1 x 256 x 14 x 14, 3x3 to 256."""
        x = " x ".join(map(str, (self.batch, self.channels[0], self.map, self.map)))
        form = "" if self.memory_format == "contiguous" else f", {self.memory_format}"
        return f"{x}, {self._kernel} to {self.channels[1]}{form}"

    @property
    def family(self) -> str:
        """Layer, map, block, batch, dtype, memory format."""
        layer = f"{self.channels[0]} to {self.channels[1]}, {self._kernel}, map {self.map}"
        block = f"{self.block[0]}x{self.block[1]}"
        return f"{layer}, {block}, batch {self.batch}, {self.dtype}, {self.memory_format}"

    @property
    def rows(self) -> int:
        """Positions of the output in all images."""
        return self.batch * self.output_map**2

    @property
    def moved(self) -> int:
        """Numbers in x and y."""
        return self.batch * self.channels[0] * self.map**2 + self.rows * self.channels[1]

    @property
    def output_map(self) -> int:
        """Pixels along a side of the output."""
        return (self.map + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """As nn.Conv2d has it."""
        return self.channels[1], self.channels[0], self.kernel, self.kernel

    @property
    def _kernel(self) -> str:
        """The kernel and what is not usual about it."""
        usual = {"stride": 1, "padding": self.dilation * (self.kernel // 2), "dilation": 1}
        odd = [f" {name} {value}" for name in usual if (value := getattr(self, name)) != usual[name]]
        return f"{self.kernel}x{self.kernel}{''.join(odd)}"

    def tensors(self, mask: Tensor | None = None, seed: int = 0) -> Tensors:
        """Weight (out, in, kernel, kernel), bias (out,), x (batch, in, map, map). The weight lives where
        `mask`, of its shape, is true; without one exactly the rounded share of its blocks, drawn at random,
        is zero."""
        generator = torch.Generator().manual_seed(seed)
        if mask is None:
            mask = random_mask(self.weight_shape, self.block, self.sparsity, generator)
        dtype, form = getattr(torch, self.dtype), FORMATS[self.memory_format]
        weight = torch.randn(self.weight_shape, generator=generator) * mask
        bias = torch.randn(self.channels[1], generator=generator)
        x = torch.randn(self.batch, self.channels[0], self.map, self.map, generator=generator)
        return weight.to(dtype, memory_format=form), bias.to(dtype), x.to(dtype, memory_format=form)

    def layer(self, weight: Tensor, bias: Tensor) -> nn.Conv2d:
        """A plain layer with this weight and bias."""
        with torch.device("meta"):  # its own weight is never needed
            conv = nn.Conv2d(*self.channels, self.kernel, self.stride, self.padding, self.dilation)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        return conv

    def truth(self, tensors: Tensors) -> Truth:
        """In float64; the limit as that of a linear layer with `in kh kw` inputs."""
        weight, bias, x = tensors
        place = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        y = F.conv2d(x.double(), weight.double(), bias.double(), **place)
        scale = F.conv2d(x.abs().double(), weight.abs().double(), bias.abs().double(), **place)
        limit = rounding_limit(scale, weight[0].numel(), x.dtype)
        return Truth(y, limit, limit + fast_rounding(self.layer(weight, bias), x).double())

    def prepare(self, rival: str, tensors: Tensors) -> Call | str:
        """Out of RIVALS_CONV2D."""
        weight, bias, x = tensors
        return prepare_conv2d(rival, self.layer(weight, bias), x, self.block)

    def kernel_of(self, call: Call) -> str:
        """What runs on maps of this size."""
        assert isinstance(call, SparseConv2d)
        return call.variant(self.rows)


def conv_cases(preset: ConvPreset, given: Mapping[str, Any]) -> list[ConvCase]:
    """The preset's cases, each once; `given` replaces what its grids say: fields of ConvGrid by values,
    fields of ConvShape by lists of values.

    ValueError for a block that does not fit into a weight, and for a kernel that does not fit into its map.
    """
    of_shape = {name: values for name, values in given.items() if name in ConvShape.__dataclass_fields__}
    of_grid = {name: values for name, values in given.items() if name not in of_shape}
    found: list[ConvCase] = []
    for grid in preset.grids:
        shapes = [
            replace(shape, **dict(zip(of_shape, values, strict=True)))
            for shape in grid.shapes
            for values in product(*of_shape.values())
        ]
        found += _cases(replace(grid, **{**of_grid, "shapes": tuple(shapes)}))
    return list(dict.fromkeys(found))


def conv_case(shape: ConvShape, batch: int, sparsity: float, block: Pair, grid: ConvGrid) -> ConvCase:
    """The case of a shape, in the dtype and memory format of `grid`. ValueError for what does not fit."""
    padding = shape.dilation * (shape.kernel // 2) if shape.padding is None else shape.padding
    case = ConvCase(
        batch,
        shape.channels,
        shape.kernel,
        shape.map,
        shape.stride,
        padding,
        shape.dilation,
        sparsity,
        block,
        grid.dtype,
        grid.memory_format,
    )
    if case.output_map < 1:
        raise ValueError(
            f"a kernel of {shape.kernel} with dilation {shape.dilation} does not fit into a map of "
            f"{shape.map} with padding {padding}, expected one that is not larger"
        )
    check_fit(block, (shape.channels[1], shape.channels[0] * shape.kernel**2))
    return case


def _cases(grid: ConvGrid) -> list[ConvCase]:
    return [
        conv_case(shape, batch, sparsity, block, grid)
        for shape, block, batch, sparsity in product(grid.shapes, grid.blocks, grid.batches, grid.sparsities)
    ]
