"""The report's figures: matplotlib draws them as SVG, the page's style sheet colours them.

Every colour drawn stands in for a CSS variable, so one figure serves the light and the dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

SIZE_INCHES = (4.9, 4.2)
# Stand-ins; templates/report.html.j2 gives each variable its light and its dark colour, after Okabe and Ito's
# palette for colour-blind readers. Lines also differ in dash and marker.
INK, GRID, SPARSE, RIVAL, EAGER = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {INK: "--ink", GRID: "--grid", SPARSE: "--sparse", RIVAL: "--rival", EAGER: "--eager"}
SPARSITY_TICKS = (0, 50, 75, 90, 95, 98, 99, 99.5, 99.9)

Rounds = Sequence[Mapping[str, Any]]


def accuracy_svg(rounds: Rounds, winner: int, accuracy_dense: float) -> str:
    """Test accuracy (%) against sparsity: the ticket, the reinit control and the dense line.

    With several seeds the range over them is shaded. `winner` is the winning round's number.
    """
    figure, axes = _figure("test accuracy, %")
    axes.axhline(100 * accuracy_dense, color=EAGER, linewidth=1.2, linestyle=(0, (1, 1.5)), label="dense")
    _line(axes, rounds, "accuracy_reinit", 100, (RIVAL, "s", "--", "reinitialised"))
    _line(axes, rounds, "accuracy", 100, (SPARSE, "o", "-", "ticket"))
    spread = [round_ for round_ in rounds if len(round_.get("seeds", ())) > 1]
    if spread:
        low, high = ([100 * pick(r["seeds"]) for r in spread] for pick in (min, max))
        axes.fill_between([_density(r) for r in spread], low, high, color=SPARSE, alpha=0.15, linewidth=0)
    _ring(axes, rounds, winner, "accuracy", 100)
    return _svg(figure, axes, rounds)


def time_svg(rounds: Rounds, winner: int) -> str:
    """Time of a forward pass (us) against sparsity: eager torch, the best dense, and sparse."""
    figure, axes = _figure("time of a forward pass, µs")
    _line(axes, rounds, "time_torch_us", 1, (EAGER, "^", ":", "torch eager"))
    _line(axes, rounds, "time_best_dense_us", 1, (RIVAL, "s", "--", "best dense"))
    _line(axes, rounds, "time_sparse_us", 1, (SPARSE, "o", "-", "sparsekern"))
    _ring(axes, rounds, winner, "time_sparse_us", 1)
    axes.set_ylim(bottom=0)
    return _svg(figure, axes, rounds)


def _figure(ylabel: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(ylabel, loc="left", fontsize=9.5, color=INK, pad=26)
    axes.set_xlabel(
        "sparsity, % (each step right: the same share of the rest is pruned)", fontsize=8.5, color=INK
    )
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    return figure, axes


def _line(axes: Any, rounds: Rounds, key: str, scale: float, style: tuple[str, str, str, str]) -> None:
    """One line over the rounds that have the number."""
    colour, marker, dash, label = style
    known = [round_ for round_ in rounds if key in round_]
    axes.plot(
        [_density(round_) for round_ in known],
        [scale * round_[key] for round_ in known],
        color=colour,
        marker=marker,
        markersize=4,
        linestyle=dash,
        linewidth=1.8,
        label=label,
    )


def _ring(axes: Any, rounds: Rounds, winner: int, key: str, scale: float) -> None:
    """A ring around the winning round's point."""
    for round_ in rounds:
        if round_["round"] == winner and key in round_:
            point = ([_density(round_)], [scale * round_[key]])
            axes.plot(
                *point, "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4
            )


def _density(round_: Mapping[str, Any]) -> float:
    """Density of a round, kept off zero for the logarithmic axis."""
    return float(max(1 - round_["sparsity"], 1e-4))


def _svg(figure: Any, axes: Any, rounds: Rounds) -> str:
    """The finished figure as one <svg> element, colours as CSS variables, text as text."""
    from matplotlib import rc_context

    floor = min(_density(round_) for round_ in rounds)
    ticks = [tick for tick in SPARSITY_TICKS if 1 - tick / 100 >= 0.97 * floor]
    axes.set_xscale("log")
    axes.set_xlim(1.06, floor / 1.06)
    axes.set_xticks([1 - tick / 100 for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=3, frameon=False, labelcolor=INK, fontsize=9
    )
    text = io.StringIO()
    unnamed = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sparsekern"}):
        figure.savefig(text, format="svg", transparent=True, metadata=unnamed)
    drawn = text.getvalue()
    drawn = re.sub(r' (?:width|height)="[\d.]+pt"', "", drawn[drawn.index("<svg") :], count=2)
    drawn = re.sub(
        r'<g id="[^"]*"', "<g", drawn
    )  # the same names in every figure: ids must be unique in a page
    for colour, variable in VARIABLES.items():
        drawn = drawn.replace(colour, f"var({variable})")
    return drawn
