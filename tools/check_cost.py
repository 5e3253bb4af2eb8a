"""Compares the cost function with measurements: which cases of a benchmark come out more than 15 % off.

sparsekern bench linear --preset full --json records.jsonl
python tools/check_cost.py records.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sparsekern.kernels.cost import relative_cost
from sparsekern.kernels.select import Problem

OFF = 0.15


def main(path: Path) -> None:
    """Print a line for each case that is off, and how many are."""
    cases = off = 0
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record["provider"] != "sparsekern" or record["problem"]["dtype"] != "float32":
            continue
        p = record["problem"]
        size = (p["m"], p["n"], p["k"])
        problem = Problem("linear", "cpu", "", "float32", tuple(p["block"]), *size, 1 - p["sparsity"])
        expected, measured = relative_cost("cpu_linear", problem), 1 / record["speedup"]["value"]
        cases += 1
        if abs(expected / measured - 1) > OFF:
            off += 1
            print(
                f"{size}, {p['sparsity']:.0%}, {p['block']}: expected {expected:.3f}, measured {measured:.3f}"
            )
    print(f"{off} of {cases} cases are more than {OFF:.0%} off")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
