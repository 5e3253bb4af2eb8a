"""A run's rounds with all their controls as a Markdown table, out of its report.json.

python tools/ticket_table.py sparsekern-run/report.json > docs/results/lenet-short.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The command, and a table for each structure; accuracies in %, means over the seeds."""
    yield f"`{report['command']}`, {report['seconds']:.0f} s, seeds {report['seeds']}"
    for entry in report["structures"]:
        yield from ("", f"## {entry['structure']}", "")
        yield from _rounds(entry)
        yield ""
        yield from entry.get("ranges", ())
        if narrow := entry.get("narrow"):
            width, accuracy = narrow["width"], _percent(narrow["accuracy"])
            yield f"A dense network of the winner's time has width {width:g}: {accuracy} %."
        yield f"Training of one search without controls: {entry['seconds']['search']:.0f} s."


def _rounds(entry: dict[str, Any]) -> Iterator[str]:
    rounds = entry["rounds"]
    controls = list(dict.fromkeys(name for one in rounds for name in one.get("controls", {})))
    unstable = entry.get("instability_points")
    head = ["round", "zeros", "ticket", "seeds", "reinit", *controls, "early stop", "against best dense"]
    yield f"| {' | '.join([*head, *(['instability'] if unstable else [])])} |"
    yield f"|{'---|' * (len(head) + bool(unstable))}"
    for one in rounds:
        best = one["speedup_vs_best_dense"]
        cells = [
            f"{one['round']}{' (winner)' if one['round'] == entry['winner']['round'] else ''}",
            f"{_percent(one['sparsity'])} %",
            _percent(one["accuracy"]),
            ", ".join(_percent(seed) for seed in one["seeds"]),
            _percent(one.get("accuracy_reinit")),
            *(_percent(one.get("controls", {}).get(name)) for name in controls),
            f"{one['early_stop_step']:.0f}",
            f"{best['value']:.2f}x ({best['low']:.2f} to {best['high']:.2f})",
            *([f"{unstable[one['round']]:.2f}"] if unstable else []),
        ]
        yield f"| {' | '.join(cells)} |"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("report", type=Path)
    for line in lines(json.loads(parser.parse_args().report.read_text("utf-8"))):
        print(line)


if __name__ == "__main__":
    main()
