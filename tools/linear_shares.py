"""How near the CPU kernels of Linear come to what a core can do, called with as little Python as there is.

    taskset -c 1 python tools/linear_shares.py                      shares of the FMA peak
    taskset -c 1 python tools/linear_shares.py --backward           the gradients against the forward
    taskset -c 1 python tools/linear_shares.py --packing            what packing takes, in time and bytes
    taskset -c 0,1 python tools/linear_shares.py --threads 2        one thread against two, dense beside it

All that stands in one table was timed in one interleaved run, on random masks. SPARSEKERN_ISA=avx2 takes
another instruction set.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor

from sparsekern import _core
from sparsekern.bench import interleave, machine, ratio
from sparsekern.cli.arguments import Parser, block, positive, seconds, shape, share
from sparsekern.cli.bench.cases import random_mask
from sparsekern.formats import BlockSparse
from sparsekern.kernels import cpu
from sparsekern.kernels.select import PackedWeight

Pair = tuple[int, int]
Call = Callable[[], object]

IN_L1 = 16 << 10  # bytes, of an L1 of 32 KB or more


def packed(size: Pair, of: Pair, sparsity: float) -> PackedWeight:
    """A weight of normal values in blocks drawn at random."""
    generator = torch.Generator().manual_seed(0)
    mask = random_mask(size, of, sparsity, generator)
    weight = BlockSparse.from_dense(torch.randn(size, generator=generator) * mask, of, mask)
    return PackedWeight(weight.values, None, weight.crow, weight.col, cpu.linear.pack(weight), *size)


def forward(rows: int, weight: PackedWeight, kernel: int = _core.CHOOSE_KERNEL) -> Call:
    """The product of so many rows."""
    return partial(torch.ops.sparsekern.cpu_linear.default, torch.randn(rows, weight.k), *weight, kernel, 0)


def gradients(rows: int, weight: PackedWeight) -> tuple[Call, Call]:
    """Those of the input and of the values."""
    x, grad = torch.randn(rows, weight.k), torch.randn(rows, weight.n)
    return partial(cpu.linear.grad_input, grad, weight), partial(cpu.linear.grad_values, grad, x, weight)


def span(values: list[float], form: str) -> str:
    """The median, and from where to where it goes."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def print_shares(options: argparse.Namespace) -> None:
    """Of the FMA peak of the same moment, with operands in registers and with one in L1; the least time of
    each moment counts."""
    calls: dict[str, Call] = {"a call": forward(1, packed((1, 1), (1, 1), 0.0))}
    flops: dict[str, int] = {}
    for of in options.block:
        for sparsity in options.sparsity:
            weight, name = packed(options.shape, of, sparsity), f"{of}, {sparsity:.0%}"
            calls[name], flops[name] = forward(options.rows, weight), 2 * options.rows * weight.values.numel()
    peaks: list[tuple[float, float]] = []
    least: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        peaks.append((cpu.fma_peak_gflops(), cpu.read_gbs(IN_L1) / 4 * 2))
        for name, timing in interleave(calls, rounds=5, budget_s=0.0).items():
            least[name].append(timing.min_us)
    registers, loaded = ([peak[i] for peak in peaks] for i in (0, 1))
    print(f"FMA peak, GFLOP/s: {span(registers, '.0f')}; with one operand in L1: {span(loaded, '.0f')}")
    print(f"a call of one weight, in all others too: {span(least['a call'], '.1f')} us\n")
    print("| block, zeros | us | of the peak | of the peak with an operand in L1 |\n|---|---|---|---|")
    for name, count in flops.items():
        of_peaks = (
            [count / us / 1e3 / peak for us, peak in zip(least[name], each, strict=True)]
            for each in (registers, loaded)
        )
        print(
            f"| {name} | {span(least[name], '.1f')} | {' | '.join(span(each, '.0%') for each in of_peaks)} |"
        )


def print_backward(options: argparse.Namespace) -> None:
    """Times, and the forward's over each."""
    names = ("forward", "gradient of the input", "of the values")
    calls: dict[str, Call] = {}
    for of in options.block:
        weight = packed(options.shape, of, options.sparsity[0])
        each = (forward(options.rows, weight), *gradients(options.rows, weight))
        calls |= {f"{of} {name}": call for name, call in zip(names, each, strict=True)}
    times = interleave(calls, budget_s=options.budget)
    print(f"| block | {' | '.join(names)} |\n|---|---|---|---|")
    for of in options.block:
        first, *others = (times[f"{of} {name}"] for name in names)
        cells = (f"{other.median_us:.0f}, {ratio(first, other)}" for other in others)
        print(f"| {of} | {first.median_us:.0f} | {' | '.join(cells)} |")


def print_packing(options: argparse.Namespace) -> None:
    """The index, and the copy of the values that the first product makes where there is one; bytes."""
    panels = _core.LINEAR_KERNELS.index("panels")
    print("| block | index ms | first copy ms | bytes: index | values and places | dense |")
    print("|---|---|---|---|---|---|")
    for of in options.block:
        w = packed(options.shape, of, options.sparsity[0])
        weight = BlockSparse.trusted(options.shape, w.crow, w.col, w.values)
        calls: dict[str, Call] = {"index": partial(cpu.linear.pack, weight), "write": w.values.neg_}
        if of[0] <= _core.PANEL_HEIGHT:
            calls["known"] = forward(1, w, panels)
            fresh = packed(options.shape, of, options.sparsity[0])
            calls["stale"] = partial(after, fresh.values.neg_, forward(1, fresh, panels))
        ms = {
            name: timing.median_us / 1e3
            for name, timing in interleave(calls, budget_s=options.budget).items()
        }
        copy = f"{ms['stale'] - ms['known'] - ms['write']:.1f}" if "stale" in ms else ""
        sizes = (w.plan_index.nbytes, weight.nbytes, 4 * options.shape[0] * options.shape[1])
        print(f"| {of} | {ms['index']:.1f} | {copy} | {' | '.join(map(str, sizes))} |")


def after(first: Call, then: Call) -> None:
    """One, then the other."""
    first()
    then()


def print_threads(options: argparse.Namespace) -> None:
    """Time on one thread over that on several, whose number is set before every call; dense beside it."""
    dense = torch.randn(options.shape)
    calls: dict[str, Call] = {}
    cases = [(name, rows) for rows in (16, 128, 1024) for name in ("dense", *options.block)]
    for name, rows in cases:
        x: Tensor = torch.randn(rows, options.shape[1])
        product: Call = partial(torch.nn.functional.linear, x, dense)
        if name != "dense":
            product = forward(rows, packed(options.shape, name, options.sparsity[0]))
        for count in (1, options.threads):
            calls[f"{name} {rows} {count}"] = partial(after, partial(torch.set_num_threads, count), product)
    times = interleave(calls, budget_s=options.budget)
    torch.set_num_threads(1)
    print(f"| block | rows | 1 thread us | {options.threads} threads us | ratio |\n|---|---|---|---|---|")
    for name, rows in cases:
        one, many = (times[f"{name} {rows} {count}"] for count in (1, options.threads))
        print(f"| {name} | {rows} | {one.median_us:.0f} | {many.median_us:.0f} | {ratio(one, many)} |")


def main() -> None:
    """Print one table."""
    parser = Parser(prog="linear_shares", description=(__doc__ or "").splitlines()[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--backward", action="store_true", help="gradients against the forward")
    mode.add_argument("--packing", action="store_true", help="time and bytes of packing, 4096x4096")
    mode.add_argument("--threads", type=positive, help="one thread against so many")
    parser.add_argument("--shape", type=shape, help="by default 768x768")
    parser.add_argument("--block", type=block, nargs="+")
    parser.add_argument("--rows", type=positive, default=128)
    parser.add_argument("--sparsity", type=share, nargs="+", default=[0.9], help="several only for shares")
    parser.add_argument("--rounds", type=positive, default=30, help="moments at which shares are taken")
    parser.add_argument("--budget", type=seconds, default=10.0, help="seconds of each table but the shares")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = next(name for name in PARTS if name == "shares" or getattr(options, name))
    print_table, blocks = PARTS[chosen]
    options.block = options.block or blocks
    options.shape = options.shape or ((4096, 4096) if chosen == "packing" else (768, 768))
    here, (n, k) = machine.describe(cpu.isa()), options.shape
    print(f"{here['cpu']}, {here['isa']}, CPUs usable: {here['cpus_usable']}; {n} x {k}")
    print_table(options)


# option -> what it prints, of which blocks by default; the last when there is no option
PARTS = {
    "backward": (print_backward, [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (32, 1)]),
    "packing": (print_packing, [(1, 1), (16, 1)]),
    "threads": (print_threads, [(1, 1), (16, 1)]),
    "shares": (print_shares, [(1, 1), (8, 1), (16, 1), (32, 1)]),
}


if __name__ == "__main__":
    main()
