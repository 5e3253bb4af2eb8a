"""The part "tune", and `sparsekern tune`: the fastest launches on this GPU are found and kept."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

from sparsekern.cli.gpu.contest import cells
from sparsekern.cli.gpu.drawn import Block, draw, draw_weight
from sparsekern.cli.gpu.linear import BLOCKS, DECODE_BLOCKS, DECODE_SHAPES, SHAPES
from sparsekern.cli.gpu.results import device_name
from sparsekern.cli.gpu.setting import TINY, Entry, Setting, in_words, make_setting, raised
from sparsekern.cli.progress import say
from sparsekern.kernels.triton import cache, tune
from sparsekern.kernels.triton.launch import FEW

SPARSITY = 0.8  # from which launches are taken over for 50 to 95 %: two octaves of density
FIRST = 4.0  # times as long for the first shape of a block, whose kernels serve the others too
TINY_S = 1.0  # in which a few candidates are timed
MEASURING = 0.1  # of a product's time, for one round of its candidates
GRADIENTS = ("linear_input", "linear_values")


class Case(NamedTuple):
    """A weight and rows of x; `kinds` of products are tuned."""

    m: int
    n: int
    k: int
    block: Block
    sparsity: float = SPARSITY
    kinds: tuple[str, ...] = ("linear",)


def cases(tiny: bool) -> list[Case]:
    """The shapes of the goals, block by block."""
    if tiny:
        return [Case(20, 32, 32, (16, 16), 0.5)]
    found = [Case(*shape, block) for block, shape in product(BLOCKS, SHAPES)]
    found += [Case(*SHAPES[0], block, kinds=GRADIENTS) for block in ((64, 64), (64, 16))]
    return found + [Case(*shape, block) for block, shape in product(DECODE_BLOCKS, DECODE_SHAPES)]


def run(setting: Setting) -> Iterator[Entry]:
    """An entry for each product. What is kept is also written beside the results, as the package would ship
    it for the architecture."""
    kept = cache.path_of(device_name())
    table: Entry = {}
    for entry in tuned(setting, cases(setting.tiny)):
        if "launch" in entry:
            table = {"table": f"tuned-{entry['arch']}.json", "kept": str(kept)}
            cache.write(setting.out / table["table"], cache.read(kept))
        yield entry
    if table:
        yield table


def tuned(setting: Setting, of: Sequence[Case]) -> Iterator[Entry]:
    """Tunes products one by one; each gets its share of the time that is left."""
    shares = [FIRST if i == 0 or case.block != of[i - 1].block else 1.0 for i, case in enumerate(of)]
    for i, case in enumerate(of):
        about: Entry = {**case._asdict(), "block": list(case.block), "kinds": list(case.kinds)}
        if setting.left_s <= 0:
            yield {**about, "skipped": "no time left"}
            continue
        left_s = TINY_S if setting.tiny else setting.left_s
        try:
            yield from _tuned(setting, case, left_s * shares[i] / sum(shares[i:]), about)
        except raised() as error:
            yield {**about, "error": in_words(error)}


def _tuned(setting: Setting, case: Case, seconds: float, about: Entry) -> Iterator[Entry]:
    """`about` gets to know what is under way, for whoever catches an error."""
    weight = draw_weight(setting.device, case.n, case.k, case.block, case.sparsity)
    budget_s = seconds / len(case.kinds)
    measure = partial(setting.medians_us, budget_s=MEASURING * budget_s, graphs=case.m <= FEW)
    for item in tune.linear_products(draw(setting.device, case.m, case.k), weight, case.kinds):
        about |= {"kind": item.task.kind, "arch": item.task.arch}
        found = tune.tune(item, measure, budget_s=budget_s, workers=setting.workers)
        times = {"time_us": found.time_us, "default_us": found.default_us, "timed": found.timed}
        yield {**about, **times, "launch": asdict(found.launch), "left_out": dict(found.left_out)}


def lines(entries: Sequence[Entry]) -> Iterator[str]:
    """A line for each kind of product and block."""
    done = [entry for entry in entries if "launch" in entry]
    yield cells(["product", "block", "timed", "left out", "times as fast as the default launch, by shape"])
    yield "|---|---|---|---|---|"
    for kind, block in dict.fromkeys((entry["kind"], tuple(entry["block"])) for entry in done):
        of = [entry for entry in done if (entry["kind"], tuple(entry["block"])) == (kind, block)]
        gains = " ".join(f"{entry['default_us'] / entry['time_us']:.2f}" for entry in of)
        left_out: Counter[str] = Counter()
        for entry in of:
            left_out.update(entry["left_out"])
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        yield cells([kind, f"{block[0]}x{block[1]}", sum(entry["timed"] for entry in of), why, gains])
    skipped = sum("skipped" in entry for entry in entries)
    if skipped:
        yield f"- {skipped} of {len(entries)} not reached"
    for entry in entries:
        if "error" in entry:
            yield f"- {_what(entry)}: {entry['error']}"
        if "table" in entry:
            yield f"- kept in {entry['kept']}; the same table is {entry['table']}"


def _what(entry: Entry) -> str:
    return f"{entry.get('kind', '')} {entry['m']}x{entry['n']}x{entry['k']} {entry['block']}"


def tune_command(options: argparse.Namespace) -> int:
    """`sparsekern tune`: what the options ask for, or the shapes of the goals. ValueError where there is no
    GPU."""
    if options.tiny:
        os.environ[TINY] = "1"
    setting = make_setting(options.seconds, Path())
    entries = []
    for entry in tuned(setting, _asked(options) or cases(setting.tiny)):
        entries.append(entry)
        if "launch" in entry:
            times = f"{entry['default_us']:.1f} us by default, {entry['time_us']:.1f} us with"
            say(f"{_what(entry)}: {times} {entry['launch']}", sys.stderr)
    for line in lines(entries):
        say(line, sys.stdout)
    say(f"kept in {cache.path_of(device_name())}", sys.stdout)
    return 0


def _asked(options: argparse.Namespace) -> list[Case]:
    if options.shape is None:
        if options.batch or options.block or options.sparsity:
            raise ValueError("--batch, --block and --sparsity say what is tuned only with --shape")
        return []
    blocks, rows = options.block or [(64, 64)], options.batch or [4096]
    sparsities = options.sparsity or [SPARSITY]
    every = product(blocks, sparsities, options.shape, rows)
    return [Case(m, n, k, block, sparsity) for block, sparsity, (n, k), m in every]
