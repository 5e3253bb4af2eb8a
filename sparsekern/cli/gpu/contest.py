"""Timing all who compute one product, in one interleaved run with a cold cache and one with a warm one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from sparsekern.bench import Timing, hardest
from sparsekern.bench.cuda import Call, interleave_cuda
from sparsekern.cli.gpu.results import device_name
from sparsekern.cli.gpu.roofline import Work, peak_of
from sparsekern.cli.gpu.setting import Entry, Setting


@dataclass(frozen=True)
class Entrant:
    """Who computes it, and what has to be computed and moved at least; `about` goes into the entry.

    dense: sparse ones are compared with it. captured: into a CUDA graph.
    """

    call: Call
    work: Work
    about: Entry
    dense: bool = False
    captured: bool = True


def contest(setting: Setting, entrants: Mapping[str, Entrant], budget_s: float) -> Iterator[Entry]:
    """The entry of each entrant: medians with their intervals, cold and warm (us); the least time that the
    published limits allow, and which share of it is reached; of a sparse one the speed-up over the fastest
    dense one, with its interval, and `per_flop`, that speed-up times the share of operations that is left."""
    calls = {name: entrant.call for name, entrant in entrants.items()}
    eager = [name for name, entrant in entrants.items() if not entrant.captured]
    dense = [name for name, entrant in entrants.items() if entrant.dense]
    timed: dict[str, dict[str, Timing]] = {}
    refusals: dict[str, str] = {}
    for state in ("cold", "warm"):
        timed[state], refused = interleave_cuda(
            calls, budget_s=budget_s / 2, cold=state == "cold", eager=eager, clock=setting.clock
        )
        refusals |= refused
    for name, entrant in entrants.items():
        entry: Entry = {**entrant.about, **_limits(entrant.work, timed["cold"][name])}
        for state, times in timed.items():
            low, high = times[name].interval_us
            entry |= {f"{state}_us": times[name].median_us, f"{state}_interval_us": [low, high]}
            if dense and not entrant.dense:
                best, speedup = hardest(times, dense, name)
                entry |= {f"{state}_best_dense": best, f"{state}_speedup": asdict(speedup)}
                entry[f"{state}_per_flop"] = speedup.value * entrant.work.flops / entrants[best].work.flops
        if name in refusals:
            entry["uncaptured"] = refusals[name]
        elif not entrant.captured:
            entry["uncaptured"] = "launched one by one"
        yield entry


def _limits(work: Work, cold: Timing) -> Entry:
    found: Entry = {"flops": work.flops, "bytes": work.nbytes, "tflops": work.flops / cold.median_us / 1e6}
    peak = peak_of(device_name())
    if peak is not None:
        limit_us = work.limit_us(peak)
        found |= {"limit_us": limit_us, "share_of_limit": limit_us / cold.median_us}
    return found


def break_even(points: Sequence[tuple[float, float]]) -> str:
    """The sparsity from which on sparse is faster, of at least one (sparsity, speed-up), interpolated."""
    ordered = sorted(points)
    slower = [i for i, (_, speedup) in enumerate(ordered) if speedup < 1]
    if not slower:
        return f"< {100 * ordered[0][0]:.0f} %"
    if slower[-1] == len(ordered) - 1:
        return f"> {100 * ordered[-1][0]:.0f} %"
    (left, low), (right, high) = ordered[slower[-1] : slower[-1] + 2]
    return f"{100 * (left + (right - left) * (1 - low) / (high - low)):.0f} %"


def percent(entry: Entry, key: str) -> str:
    """A share in an entry as "82 %"; nothing where it is unknown."""
    return f"{100 * entry[key]:.0f} %" if key in entry else ""


def cells(row: Sequence[object]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(str(cell) for cell in row)} |"
