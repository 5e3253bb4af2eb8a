"""Accuracy against measured speed-up, one line for each structure, out of the report.json of a run.

    python tools/tradeoff_plot.py sparsekern-run/report.json --out docs/results/tradeoff

Writes OUT.svg and OUT.md, the same points as a table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

MARKERS = "osD^v<>P"


def lines_of(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The pruned rounds of every structure, and of the unstructured tickets regrouped, by name; tickets in
    blocks may have been regrouped under the same names, and have no such lines."""
    lines = {}
    for entry in report["structures"]:
        lines[entry["structure"]] = entry["rounds"][1:]
        if entry["structure"] == "unstructured":
            regrouped = entry.get("regrouped", {})
            lines |= {name.replace(":", " "): rounds for name, rounds in regrouped.items()}
    return lines


def table(report: dict[str, Any]) -> str:
    """The points as a Markdown table."""
    dense = 100 * report["structures"][0]["rounds"][0]["accuracy"]
    rows = [
        f"Dense: {dense:.2f} %. Batch {report['batch']}, seeds {report['seeds']}, `{report['command']}`.",
        "",
        "| structure | zeros | accuracy | against best dense | against torch |",
        "|---|---|---|---|---|",
    ]
    for name, rounds in lines_of(report).items():
        for one in rounds:
            best, eager = (one[f"speedup_vs_{rival}"] for rival in ("best_dense", "torch"))
            rows.append(
                f"| {name} | {100 * one['sparsity']:.1f} % | {100 * one['accuracy']:.2f} % "
                f"| {best['value']:.2f}x ({best['low']:.2f} to {best['high']:.2f}) | {eager['value']:.2f}x |"
            )
    return "\n".join(rows) + "\n"


def draw(report: dict[str, Any], path: Path) -> None:
    """The plot as SVG."""
    from matplotlib import pyplot, style

    style.use("tableau-colorblind10")
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for (name, rounds), marker in zip(lines_of(report).items(), MARKERS * 9, strict=False):
        speeds = [one["speedup_vs_best_dense"]["value"] for one in rounds]
        dashes = "--" if name.startswith("regroup") else "-"
        axes.plot(speeds, [100 * one["accuracy"] for one in rounds], dashes, marker=marker, label=name)
    dense = 100 * report["structures"][0]["rounds"][0]["accuracy"]
    axes.axhline(dense, color="gray", linewidth=1)
    axes.axvline(1, color="gray", linewidth=1)
    axes.set_xlabel(f"speed-up against the best dense, batch {report['batch']}, one thread")
    axes.set_ylabel("test accuracy, %")
    axes.legend(title="structure")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Read, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    report = json.loads(options.report.read_text("utf-8"))
    draw(report, options.out.with_suffix(".svg"))
    options.out.with_suffix(".md").write_text(table(report), "utf-8")


if __name__ == "__main__":
    main()
