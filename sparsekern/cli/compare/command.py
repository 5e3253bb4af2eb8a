"""`sparsekern compare`: two sides in, a table, a file and an exit code out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import isinf
from pathlib import Path
from time import monotonic
from typing import Any

from sparsekern.bench import machine
from sparsekern.bench.atomic import write_atomically
from sparsekern.bench.compare import Comparison, Verdict, overall
from sparsekern.bench.record import strict_json
from sparsekern.cli.compare import files
from sparsekern.cli.compare.cases import CASES, PRESETS
from sparsekern.cli.compare.revisions import Revision, built, default_cache
from sparsekern.cli.compare.sides import Sitting
from sparsekern.cli.compare.table import table
from sparsekern.cli.compare.timed import Rules, decide
from sparsekern.cli.progress import say

EXIT_CODES: dict[Verdict, int] = {"same": 0, "faster": 0, "slower": 1, "undecided": 2}


def compare(options: argparse.Namespace) -> int:
    """The command. Returns the exit code of the verdict; ValueError for what cannot be compared."""
    target: Path | None = options.json
    if target is not None and (target.exists() or not target.parent.is_dir()):
        raise ValueError(f"--json {target}: expected a new file in a folder that exists")
    base, head = Path(options.base), Path(options.head)
    are_files = [base.is_file(), head.is_file()]
    if all(are_files):
        result = _files(base, head, options)
    elif any(are_files):
        raise ValueError(
            f"{options.base} and {options.head}: expected two files or two revisions, got one of each"
        )
    elif options.counts:
        from sparsekern.cli.compare.counts import compare_counts

        result = compare_counts(options)
    else:
        result = _revisions(options)
    for text in (*table(result["cases"], result["unit"]), "", *_notes(result)):
        say(text, sys.stdout)
    if target is not None:
        write_atomically(target, (strict_json(result, indent=2) + "\n").encode("utf-8", "backslashreplace"))
    return EXIT_CODES[result["verdict"]]


def _names(options: argparse.Namespace) -> list[str]:
    return list(dict.fromkeys(options.cases or PRESETS[options.preset]))


def _files(base: Path, head: Path, options: argparse.Namespace) -> dict[str, Any]:
    before, after = files.read(base), files.read(head)
    if not options.force:
        files.check_machines(before, after)
    found = files.compare_files(before, after)
    rows = {name: _row(one, one.verdict(options.margin)) for name, one in found.items()}
    return {**_shared(options, rows), "base": str(base), "head": str(head)}


def _revisions(options: argparse.Namespace) -> dict[str, Any]:
    sides = [Revision.find(name) for name in (options.base, options.head)]
    cache = (options.cache or default_cache()).resolve()
    started = monotonic()
    for side in dict.fromkeys(sides):
        say(f"building {side}", sys.stderr)
        built(side, cache)
    folders = [built(side, cache) for side in sides]
    cases, begun = {name: CASES[name] for name in _names(options)}, monotonic()
    rules = Rules(options.margin, options.budget, options.rounds, options.seed)
    outcome = decide(
        list(cases), lambda names, seed: Sitting(folders, {name: cases[name] for name in names}, seed), rules
    )
    rows: dict[str, dict[str, Any]] = {}
    for name in cases:
        refusals = [found[name] for found in outcome.refusals if name in found]
        if refusals:
            rows[name] = {"refusal": f"not timed: {refusals[0]}"}
        else:
            rows[name] = _row(outcome.found.get(name), outcome.verdicts[name])
    if len(refused := [name for name in rows if "refusal" in rows[name]]) == len(rows):
        raise ValueError(f"no case was timed; {refused[0]}: {rows[refused[0]]['refusal']}")
    return {
        **_shared(options, rows),
        "base": str(sides[0]),
        "head": str(sides[1]),
        "commits": [side.commit for side in sides],
        "rounds": outcome.rounds,
        "build_s": begun - started,
        "wall_s": monotonic() - begun,
        "seed": options.seed,
        "machine": machine.describe(),
        "versions": machine.versions(),
    }


def _shared(options: argparse.Namespace, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    verdict = overall(row["verdict"] for row in rows.values() if "verdict" in row)
    return {"verdict": verdict, "margin": options.margin, "unit": "us", "cases": rows}


def _row(found: Comparison | None, verdict: Verdict) -> dict[str, Any]:
    """What is known of a case; what is not is no key."""
    if found is None:
        return {"verdict": verdict, "base": None, "head": None}
    known = {key: value for key, value in asdict(found).items() if not isinf(value)}
    return {"base": known.pop("base_us"), "head": known.pop("head_us"), **known, "verdict": verdict}


def _notes(result: Mapping[str, Any]) -> Iterator[str]:
    words = {
        "slower": "at least one case is slower",
        "undecided": "nothing is known to be slower, but not every case was decided",
        "faster": "something is faster, nothing slower",
        "same": "no case changed",
    }
    margin = f"{100 * result['margin']:g} %"
    yield f"**{result['verdict']}**: {words[result['verdict']]} by more than {margin}."
    yield f"Base is {result['base']}, head {result['head']}."
    if "rounds" in result:
        first, second = result["rounds"]
        again = f" and {second} to confirm" if second else ""
        yield (
            f"{first} rounds of four processes{again} in {result['wall_s']:.0f} s, after "
            f"{result['build_s']:.0f} s of building, on {result['machine']['cpu']}, one thread."
        )
