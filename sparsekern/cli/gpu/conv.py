"""The part "conv": convolutions in bfloat16, channels last, against cuDNN's best algorithm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsekern.cli.bench.cases import Truth, rounding_limit
from sparsekern.cli.gpu.contest import Entrant, cells, contest, percent
from sparsekern.cli.gpu.drawn import CONV2D, Block, draw, draw_mask, packed_conv
from sparsekern.cli.gpu.roofline import Work
from sparsekern.cli.gpu.setting import Entry, Setting, in_words, raised
from sparsekern.kernels.select import PackedConv
from sparsekern.kernels.triton import tune
from sparsekern.ops import conv2d_packed

CHANNELS_LAST = torch.channels_last
TIMING_S = 1.5  # for one layer, cold and warm


class Case(NamedTuple):
    """A layer and the square maps that come in; padding keeps their size at stride 1."""

    channels: int
    out: int
    kernel: int
    map: int
    batch: int
    stride: int = 1

    def __str__(self) -> str:
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        side = f"{self.kernel}x{self.kernel}"
        return f"{self.batch}x{self.channels}x{self.map}x{self.map}, {side} to {self.out}{stride}"


CASES = (
    Case(64, 64, 3, 56, 64),  # the stages of ResNets
    Case(128, 128, 3, 28, 128),
    Case(256, 256, 3, 14, 256),
    Case(512, 512, 3, 7, 256),
    Case(640, 640, 3, 32, 16),  # a U-Net
    Case(256, 512, 3, 28, 64, stride=2),
    Case(512, 2048, 1, 14, 128),
)
BLOCKS: tuple[Block, ...] = ((64, 16), (64, 64))
SPARSITIES = (0.8, 0.9)

TINY = ((Case(16, 16, 3, 4, 1),), ((16, 16),), (0.5,))


def run(setting: Setting) -> Iterator[Entry]:
    """Of each layer an entry for cuDNN, dense and with zeros in place, and for each block and sparsity."""
    cases, blocks, sparsities = TINY if setting.tiny else (CASES, BLOCKS, SPARSITIES)
    for case in cases:
        if setting.left_s <= 0:
            yield {"layer": str(case), "skipped": "no time left"}
            continue
        try:
            with torch.no_grad(), _best_algorithms():
                yield from _measure(setting, case, list(product(blocks, sparsities)))
        except raised() as error:
            yield {"layer": str(case), "error": in_words(error)}


@contextmanager
def _best_algorithms() -> Iterator[None]:
    """cuDNN tries its algorithms when a shape comes for the first time."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _measure(setting: Setting, case: Case, sparse: Sequence[tuple[Block, float]]) -> Iterator[Entry]:
    conv = _layer(setting, case)
    x = draw(setting.device, case.batch, case.channels, case.map, case.map)
    x = x.contiguous(memory_format=CHANNELS_LAST)
    y = conv(x)
    dense = Work(2 * y.numel() * conv.weight[0].numel(), 2 * (x.numel() + y.numel() + conv.weight.numel()))
    about: Entry = {"layer": str(case)}
    entrants = {"cudnn": Entrant(partial(conv, x), dense, {**about, "rival": "cudnn"}, dense=True)}
    packs = []
    for block, sparsity in sparse:
        masked = _layer(setting, case)
        mask = draw_mask(setting.device, conv.weight.shape, block, sparsity)
        masked.weight.mul_(mask)
        packs.append((f"{block} {sparsity}", block, sparsity, masked, packed_conv(masked, block, mask)))
    last = packs[-1][3]
    rival = {**about, "rival": "cudnn_masked"}
    entrants["cudnn_masked"] = Entrant(partial(last, x), dense, rival, dense=True)
    runs = [partial(_wrong, x, masked, weight) for *_, masked, weight in packs]
    errors = tune.side_by_side(runs, setting.workers, setting.device)
    for (name, block, sparsity, _, weight), error in zip(packs, errors, strict=True):
        known = {**about, "rival": "sparsekern", "block": list(block), "sparsity": sparsity}
        if error is not None:
            yield {**known, "error": error}
            continue
        stored, positions = weight.values.numel(), y.numel() // case.out
        nbytes = 2 * (x.numel() + y.numel() + stored) + 4 * (weight.crow.numel() + weight.col.numel())
        call = partial(conv2d_packed, x, weight, CONV2D)
        entrants[name] = Entrant(call, Work(2 * positions * stored, nbytes), known)
    yield from contest(setting, entrants, 0.01 if setting.tiny else TIMING_S)


def _layer(setting: Setting, case: Case) -> nn.Conv2d:
    conv = nn.Conv2d(case.channels, case.out, case.kernel, case.stride, case.kernel // 2)
    conv = conv.to(setting.device, torch.bfloat16).requires_grad_(False)
    conv.weight = nn.Parameter(conv.weight.contiguous(memory_format=CHANNELS_LAST), False)
    return conv


def _wrong(x: Tensor, masked: nn.Conv2d, weight: PackedConv) -> str | None:
    """What is wrong with the product, on as many images as float64 takes in little time."""
    some = x[:8]
    try:
        with torch.no_grad():
            conv2d_packed(x, weight, CONV2D)
            got = conv2d_packed(some, weight, CONV2D)
            assert masked.bias is not None
            w, b = masked.weight.double(), masked.bias.double()
            want = masked._conv_forward(some.double(), w, b)
            scale = masked._conv_forward(some.double().abs(), w.abs(), b.abs())
            Truth(want, rounding_limit(scale, w[0].numel(), x.dtype)).check(got, x.dtype)
    except raised() as error:
        return in_words(error)
    return None


def lines(entries: Sequence[Entry]) -> Iterator[str]:
    """A line for each layer, block and sparsity."""
    yield "bfloat16, channels last, us with a cold L2 cache:"
    times = ["cudnn", "masked", "sparsekern", "times", "warm", "of limit"]
    yield cells(["x, kernel", "block", "sparsity", *times])
    yield f"|{'---|' * 9}"
    for entry in entries:
        if "block" in entry and "cold_us" in entry:
            dense = {e["rival"]: e for e in entries if e["layer"] == entry["layer"] and "block" not in e}
            times = [f"{e['cold_us']:.1f}" for e in (dense["cudnn"], dense["cudnn_masked"], entry)]
            speedups = [f"{entry[f'{state}_speedup']['value']:.2f}" for state in ("cold", "warm")]
            block, sparsity = f"{entry['block'][0]}x{entry['block'][1]}", f"{100 * entry['sparsity']:.0f} %"
            share = percent(entry, "share_of_limit")
            yield cells([entry["layer"], block, sparsity, *times, *speedups, share])
    for entry in entries:
        if "error" in entry:
            block = f", {entry['block']} at {entry['sparsity']}" if "block" in entry else ""
            yield f"- {entry['layer']}{block}: {entry['error']}"
    yield from (f"- {e['layer']}: {e['skipped']}" for e in entries if "skipped" in e)
