"""The part "check": every product on the device against float64, in memory that was NaN before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from sparsekern.cli.gpu.checks import CHECKS, DTYPES, computed, truths
from sparsekern.cli.gpu.drawn import Block, draw, draw_mask, packed
from sparsekern.cli.gpu.setting import Entry, Setting, in_words, raised
from sparsekern.kernels.triton import tune

ROWS = (1, 2, 5, 16, 17, 33, 128, 1000)
SHAPES = ((384, 512), (344, 520), (333, 250))  # whole blocks; ragged; ragged rows that no descriptor takes
BLOCKS: tuple[Block, ...] = (
    *((64, 64), (128, 64), (16, 16), (64, 16), (128, 128)),
    *((32, 32), (128, 16), (64, 32), (16, 128), (32, 64)),
)
FOR_OTHERS_S = 55.0  # of the part's time, for what comes after the products


class Products(NamedTuple):
    """A weight, and the rows of x for which it and both gradients are multiplied."""

    block: Block
    dtype: torch.dtype
    shape: tuple[int, int]
    pattern: str
    rows: tuple[int, ...]

    def __str__(self) -> str:
        (out, inner), (n, k), dtype = self.block, self.shape, str(self.dtype).removeprefix("torch.")
        return f"{out}x{inner} in {n}x{k}, {dtype}, {self.pattern}"


def _lower_half(mask: Tensor) -> Tensor:
    return mask & (torch.arange(len(mask), device=mask.device) >= len(mask) // 2)[:, None]


PATTERNS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "random": lambda mask: mask,
    "empty block rows": _lower_half,
    "all zero": torch.zeros_like,
    "full": torch.ones_like,
}
"""What becomes of a random mask."""


def plan(tiny: bool) -> list[Products]:
    """What is multiplied, the most telling first."""
    if tiny:
        few = (("random", (1, 17)), ("all zero", (2,)))
        return [Products((16, 16), torch.bfloat16, (24, 32), pattern, rows) for pattern, rows in few]
    thorough = [
        Products(block, torch.bfloat16, shape, pattern, ROWS)
        for block, shape, pattern in product(((64, 64), (16, 16)), SHAPES, PATTERNS)
    ]
    broad = [
        Products(block, dtype, shape, "random", (5, 1000))
        for block, dtype, shape in product(BLOCKS, DTYPES, SHAPES[1:])
    ]
    return [*thorough, *broad]


def run(setting: Setting) -> Iterator[Entry]:
    """An entry for each check: what was found, or the error in words."""
    first, *rest = plan(setting.tiny)
    entries: list[Entry] = []

    def check(of: Products) -> None:
        if setting.left_s < FOR_OTHERS_S and not setting.tiny:
            entries.append({"check": "products", "of": str(of), "skipped": "no time left"})
        else:
            entries.append({**_entry("products", partial(products, of), setting), "of": str(of)})

    with tune.poisoned():
        check(first)  # Triton sets itself up in one thread
        tune.side_by_side([partial(check, of) for of in rest], setting.workers, setting.device)
    yield from entries
    for name, other in CHECKS.items():
        yield _entry(name, other, setting)


def _entry(name: str, check: Callable[[Setting], str], setting: Setting) -> Entry:
    try:
        return {"check": name, "found": check(setting)}
    except raised() as error:
        return {"check": name, "error": in_words(error)}


def lines(entries: Sequence[Entry]) -> Iterator[str]:
    """A line for each kind of check, and one for each error."""
    yield "| check | right | wrong | not reached | found |"
    yield "|---|---|---|---|---|"
    for kind in dict.fromkeys(entry["check"] for entry in entries):
        of = [entry for entry in entries if entry["check"] == kind]
        count = Counter(key for entry in of for key in ("found", "error", "skipped") if key in entry)
        found = of[0].get("found", "") if len(of) == 1 else ""
        yield f"| {kind} | {count['found']} | {count['error']} | {count['skipped']} | {found} |"
    for entry in entries:
        if "error" in entry:
            yield f"- {entry['check']}{': ' + entry['of'] if 'of' in entry else ''}: {entry['error']}"


def products(of: Products, setting: Setting) -> str:
    """The product and both gradients."""
    device = setting.device
    mask = PATTERNS[of.pattern](draw_mask(device, of.shape, of.block, 0.8))
    dense = draw(device, *of.shape, dtype=of.dtype) * mask
    weight = packed(dense, of.block, mask, draw(device, of.shape[0], dtype=of.dtype))
    for m in of.rows:
        x = draw(device, m, of.shape[1], dtype=of.dtype)
        grad = draw(device, m, of.shape[0], dtype=of.dtype)
        right = truths(weight, dense, x, grad)
        for name, got in zip(right, computed(weight, x, grad), strict=True):
            try:
                right[name].check(got, of.dtype)
            except ValueError as error:
                raise ValueError(f"{name}, m = {m}: {error}") from error
    return f"{3 * len(of.rows)} products"
