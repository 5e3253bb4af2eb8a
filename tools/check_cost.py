"""Compares the cost function with measurements: which cases of a benchmark come out more than 15 % off.

    taskset -c 1 sparsekern bench linear --shape 768x768 --sparsity 0.8 0.9 \\
        --block 1x1 2x1 3x1 4x1 8x1 16x1 32x1 --batch 1 4 16 32 64 128 512 --json records.jsonl
    python tools/check_cost.py records.jsonl

Records of `bench conv2d`, bfloat16 and float16 will do too. int8 has no cost: nothing is swapped into it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sparsekern.kernels import KERNELS
from sparsekern.kernels.cost import relative_cost
from sparsekern.kernels.select import Problem, select

OFF = 0.15


def problem_of(record: dict[str, Any]) -> Problem:
    """What a record's case poses to the cost function; the kernel that ran says what the CPU has."""
    p, features = record["problem"], (record["kernel"],)
    dtype, block, density = p["dtype"], tuple(p["block"]), 1 - p["sparsity"]
    if p["op"] == "linear":
        return Problem("linear", "cpu", "", dtype, block, p["m"], p["n"], p["k"], density, features)
    (inputs, outputs), taps = p["channels"], p["kernel"] ** 2
    side = (p["map"] + 2 * p["padding"] - p["dilation"] * (p["kernel"] - 1) - 1) // p["stride"] + 1
    sizes = p["batch"] * side**2, outputs, inputs * taps
    return Problem("conv2d", "cpu", "", dtype, block, *sizes, density, features, taps=taps)


def main(path: Path) -> None:
    """Print a line for each case that is off, and how many are."""
    cases = off = without = 0
    for line in path.read_text().splitlines():
        record = json.loads(line)
        p = record["problem"]
        if record["provider"] != "sparsekern":
            continue
        if p["dtype"] == "int8" or "speedup" not in record:
            without += 1
            continue
        problem = problem_of(record)
        kernel = select(problem, KERNELS).kernel.name
        expected, measured = relative_cost(kernel, problem), 1 / record["speedup"]["value"]
        cases += 1
        if abs(expected / measured - 1) > OFF:
            off += 1
            what = f"{(problem.m, problem.n, problem.k)}, {p['sparsity']:.0%}, {p['block']}, {p['dtype']}"
            print(f"{what}, {kernel}: expected {expected:.3f}, measured {measured:.3f}")
    print(f"{off} of {cases} cases are more than {OFF:.0%} off")
    if without:
        print(f"{without} more are of int8, or have no dense rival: nothing to compare")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
