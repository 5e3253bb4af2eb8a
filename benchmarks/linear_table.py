"""The table of the linear kernels: all rivals interleaved on one thread, ratios with their intervals.

    python benchmarks/linear_table.py [--out records.jsonl] [--threads 1]

Prints Markdown; with --out also appends one JSON line for each rival and problem (sparsekern.bench.record).
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import RIVALS, TINY, Case, check, prepare

from sparsekern.bench import DENSE, best_dense, interleave, machine, ratio
from sparsekern.bench.record import Record, append
from sparsekern.kernels import cpu
from sparsekern.nn import SparseLinear

CASES = tuple(
    Case(m, n, k, sparsity, block)
    for m, n, k, sparsity in (
        [(8, 64, 64, 0.9)]
        if TINY
        else [
            (256, 1024, 1024, 0.9),
            (256, 1024, 1024, 0.8),
            (256, 1024, 1024, 0.95),
            (1, 1024, 1024, 0.9),
            (256, 300, 784, 0.9),
            (256, 4096, 1024, 0.9),
        ]
    )
    for block in ((1, 1), (16, 1))
)


def main() -> None:
    """Measure every case and print its line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="append JSON lines to this file")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (%(default)s)")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    here = machine.describe(cpu.isa())
    peak = cpu.fma_peak_gflops() * chosen.threads
    print(f"{here['cpu']}, {here['isa']}, {chosen.threads} thread(s), FMA peak {peak:.0f} GFLOP/s; us\n")
    columns = ["m x n x k", "sparsity", "block", *RIVALS, "against torch", "against best dense", "of peak"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for case in CASES:
        measure(case, here, peak, chosen.out)


def measure(case: Case, here: dict[str, object], peak_gflops: float, out: Path | None) -> None:
    """Print the Markdown line of one case; append its records to `out`."""
    weight, bias, x = case.tensors()
    with torch.inference_mode():
        prepared = {rival: prepare(rival, case, weight, bias, x) for rival in RIVALS}
        calls = {rival: call for rival, call in prepared.items() if not isinstance(call, str)}
        errors = {rival: check(call, weight, bias, x) for rival, call in calls.items()}
        times = interleave({rival: partial(call, x) for rival, call in calls.items()}, budget_s=3.0)
    ours, living = times["sparsekern"], int(weight.count_nonzero())
    best = times[best_dense({rival: times[rival] for rival in DENSE if rival in times})]
    flops = 2 * case.m * living
    medians = [f"{times[rival].median_us:.1f}" if rival in times else "refuses" for rival in RIVALS]
    share = flops / (1e3 * ours.median_us) / peak_gflops
    ratios = [str(ratio(rival, ours)) for rival in (times["torch"], best)]
    cells = [f"{case.m} x {case.n} x {case.k}", f"{case.sparsity:.0%}", str(case.block), *medians, *ratios]
    print(f"| {' | '.join(cells)} | {share:.0%} |", flush=True)
    if out is None:
        return
    shared: dict[str, Any] = {
        "problem": {"op": "linear", "dtype": "float32", "threads": torch.get_num_threads(), **asdict(case)},
        "machine": here,
        "versions": machine.versions(),
        "seed": 0,
        "flops": flops,
        "bytes": 4 * (living + bias.numel() + x.numel() + case.m * case.n),
        **machine.commit(Path(__file__).parent),
    }
    for rival, call in prepared.items():
        if isinstance(call, str):
            append(out, Record(provider=rival, refusal=call, **shared))
            continue
        known = {"median_us": times[rival].median_us, "interval_us": times[rival].interval_us}
        kernel = call.kernel if isinstance(call, SparseLinear) else None
        speedup = asdict(ratio(best, times[rival]))
        append(
            out,
            Record(provider=rival, kernel=kernel, error=errors[rival], speedup=speedup, **known, **shared),
        )


if __name__ == "__main__":
    main()
