"""What `sparsekern bench` prints: Markdown tables, the notes under them, the break-even points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from sparsekern.bench import Ratio
from sparsekern.cli.bench.measure import Result, Setting
from sparsekern.cli.bench.rivals import NEEDS, missing


def head_line(here: Mapping[str, object], setting: Setting) -> str:
    """The machine in one line."""
    peak = setting.peak_gflops * setting.threads
    return f"{here['cpu']}, {here['isa']}, {setting.threads} thread(s), FMA peak {peak:.0f} GFLOP/s"


def table_head(rivals: Sequence[str], first: str) -> str:
    """The two lines above the rows, whose first cell says `first`; times are in us."""
    columns = [first, "sparsity", "block", *(f"{rival} us" for rival in rivals)]
    columns += ["against torch", "against best dense", "of the limit", "kernel"]
    return f"{line(columns)}\n|{'---|' * len(columns)}"


def row(result: Result, rivals: Sequence[str], name: str = "") -> str:
    """The line of one case; `name` stands before its sizes."""
    case, times = result.case, result.times
    sizes = f"{name} {case.sizes}".lstrip()
    dtype = "" if case.dtype == "float32" else f" {case.dtype}"
    medians = [f"{times[rival].median_us:.1f}" if rival in times else "refuses" for rival in rivals]
    ratios = [_ratio(result.against(base)) for base in ("torch", result.best_dense)]
    share = f"{100 * result.share:.0f} %"
    block = f"{case.block[0]}x{case.block[1]}"
    return line([sizes + dtype, percent(case.sparsity), block, *medians, *ratios, share, result.kernel])


def line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def percent(share: float) -> str:
    """0.9 as "90 %"."""
    return f"{100 * share:.4g} %"


def _ratio(ratio: Ratio | None) -> str:
    return "n/a" if ratio is None else str(ratio)


def notes(results: Sequence[Result], setting: Setting) -> Iterator[str]:
    """What the columns mean, who refused and why, who is not here: one line each."""
    yield (
        f"Times are medians; ratios are above 1 where sparsekern is faster, with their 95 % interval. Best "
        f"dense is the fastest of {', '.join(_dense_rivals(results))} in the same dtype."
    )
    yield (
        "The limit is the time that the FMA peak, or reading the stored weights, 2 bytes for each block's "
        "index, x and y, takes at least; several threads count as so many times one. bfloat16 counts at the "
        "float32 peak; in blocks (..., 2), and int8, at that of the best instructions for them."
    )
    reasons = Counter(refusal for result in results for refusal in result.refusals.items())
    for (rival, reason), count in reasons.items():
        yield f"{rival} refuses: {reason} ({count} of {len(results)} cases)"
    for rival in NEEDS:
        if absent := missing(rival):
            yield f"{rival}: {absent}"


def _dense_rivals(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(rival for result in results for rival in result.case.dense_rivals))


def break_evens(results: Sequence[Result]) -> Iterator[str]:
    """A line for each shape, block and batch that was measured at several sparsities."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        case, speedup = result.case, result.against(result.best_dense)
        if speedup is not None:
            curves.setdefault(case.family, []).append((case.sparsity, speedup.value))
    for what, points in curves.items():
        if len(points) > 1:
            yield f"{what}: {break_even(points)}"


def break_even(points: Sequence[tuple[float, float]]) -> str:
    """The sparsity from which on sparse is faster, of at least one (sparsity, speed-up).

    Between the last measured sparsity with a speed-up below 1 and the next one it is interpolated; otherwise
    it is "below" the lowest or "above" the highest measured.
    """
    ordered = sorted(points)
    slower = [index for index, (_, speedup) in enumerate(ordered) if speedup < 1]
    if not slower:
        return f"below {percent(ordered[0][0])}"
    if slower[-1] == len(ordered) - 1:
        return f"above {percent(ordered[-1][0])}"
    (left, low), (right, high) = ordered[slower[-1] : slower[-1] + 2]
    return f"{100 * (left + (right - left) * (1 - low) / (high - low)):.1f} %"
