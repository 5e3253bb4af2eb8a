"""Compares the cost function with measurements: which cases of a benchmark come out more than 15 % off.

sparsekern bench linear --preset full --json records.jsonl        (or bench conv2d)
python tools/check_cost.py records.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sparsekern.kernels.cost import relative_cost
from sparsekern.kernels.select import Problem

OFF = 0.15


def problem_of(p: dict[str, Any]) -> Problem:
    """What a record's case poses to the cost function."""
    block, density = tuple(p["block"]), 1 - p["sparsity"]
    if p["op"] == "linear":
        return Problem("linear", "cpu", "", "float32", block, p["m"], p["n"], p["k"], density)
    (inputs, outputs), taps = p["channels"], p["kernel"] ** 2
    side = (p["map"] + 2 * p["padding"] - p["dilation"] * (p["kernel"] - 1) - 1) // p["stride"] + 1
    rows = p["batch"] * side**2
    return Problem("conv2d", "cpu", "", "float32", block, rows, outputs, inputs * taps, density, taps=taps)


def main(path: Path) -> None:
    """Print a line for each case that is off, and how many are."""
    cases = off = 0
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record["provider"] != "sparsekern" or record["problem"]["dtype"] != "float32":
            continue
        p = record["problem"]
        problem = problem_of(p)
        size = (problem.m, problem.n, problem.k)
        expected = relative_cost(f"cpu_{p['op']}", problem)
        measured = 1 / record["speedup"]["value"]
        cases += 1
        if abs(expected / measured - 1) > OFF:
            off += 1
            print(
                f"{size}, {p['sparsity']:.0%}, {p['block']}: expected {expected:.3f}, measured {measured:.3f}"
            )
    print(f"{off} of {cases} cases are more than {OFF:.0%} off")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
