"""`sparsekern inspect`: what the Triton kernels become in machine code, told on a machine without a GPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from importlib.util import find_spec
from typing import Any

from sparsekern.bench.record import strict_json
from sparsekern.cli.bench.table import line
from sparsekern.cli.progress import Bar, say
from sparsekern.kernels.triton.launch import SHARED, Launch, default

Entry = Mapping[str, Any]


def inspect(options: argparse.Namespace) -> int:
    """Print what `examine` finds, as a table or with `--json` as JSON. Returns 1 if anything is at fault."""
    if find_spec("triton") is None:
        raise ImportError("inspect compiles with Triton, which is not installed; it comes with the extra gpu")
    found = examine(options.arch)
    say(strict_json(found, indent=2) if options.json else "\n".join(_lines(found)), sys.stdout)
    faults = list(_faults(found["kernels"]))
    for fault in faults:
        say(f"sparsekern: {fault}", sys.stderr)
    return 1 if faults else 0


def examine(arch: str) -> dict[str, Any]:
    """Every kernel of the Triton backends, compiled for `arch` as it is launched by default.

    An entry has its case and launch, and what `Compiled` says of the kernel; what cannot be known is missing,
    and `unknown` says why. `faults` are sentences, none where all is well.
    """
    from sparsekern.kernels.triton.offline import CASES, VERSION, compile_offline

    entries: list[Entry] = []
    with Bar(f"compiling for {arch}", len(CASES), sys.stderr) as bar:
        for case in CASES:
            launch = default(case.task(arch))
            what = {"case": case._asdict(), "launch": asdict(launch)}
            try:
                compiled = compile_offline(case, arch, launch)
            except RuntimeError as error:
                entries.append({**what, "faults": [" ".join(str(error).split())]})
            else:
                for one in compiled:
                    known = {name: value for name, value in asdict(one).items() if value is not None}
                    entries.append({**what, **known, "faults": one.faults()})
            bar.step()
    limit = SHARED[arch] * 1024
    return {"arch": arch, "triton": VERSION, "shared_limit_bytes": limit, "kernels": entries}


def _faults(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        for fault in entry["faults"]:
            kernel = f" {entry['kernel']}" if "kernel" in entry else ""
            yield f"{_case(entry['case'])}, {_launch(entry['launch'])}:{kernel} {fault}"


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    entries = [entry for entry in found["kernels"] if "kernel" in entry]
    yield (
        f"Triton {found['triton']} for {found['arch']}, where a program has "
        f"{found['shared_limit_bytes']} bytes of shared memory"
    )
    names = list(dict.fromkeys(name for entry in entries for name in entry["instructions"]))
    columns = ["kernel", "case", "launch", "registers", "spilled bytes", "shared bytes", *names]
    yield f"{line(columns)}\n|{'---|' * len(columns)}"
    for entry in entries:
        figures = [entry.get(name, "?") for name in ("registers", "stack_bytes", "shared_bytes")]
        counts = [entry["instructions"].get(name, "?") for name in names]
        words = [entry["kernel"], _case(entry["case"]), _launch(entry["launch"])]
        yield line([*words, *map(str, figures), *map(str, counts)])
    yield from dict.fromkeys(f"unknown: {entry['unknown']}" for entry in entries if "unknown" in entry)


def _case(case: Mapping[str, Any]) -> str:
    (out, inner), sizes = case["block"], [f"{name} {case[name]}" for name in "mnk"]
    activation = [case["activation"]] if case["activation"] else []
    stride = [f"stride {case['stride']}"] if case["stride"] > 1 else []
    return " ".join([case["kind"], f"{out}x{inner}", case["dtype"], *sizes, *activation, *stride])


def _launch(chosen: Mapping[str, Any]) -> str:
    """What is always said of a launch, and what is not as it is by default."""
    named = [field.name for field in fields(Launch) if chosen[field.name] != field.default]
    return " ".join([chosen["kernel"], *(f"{name} {chosen[name]}" for name in named if name != "kernel")])
