"""Instructions of each CPU kernel, counted by valgrind: the same build gives the same number every time.

Of `perf stat` and callgrind it is callgrind: virtual machines seldom show a processor's counters. It emulates
no AVX-512, so what is counted is AVX2. The kernels run in a program of their own, without Python and torch,
whose sources are csrc/cpu of each revision.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

from sparsekern.bench import machine
from sparsekern.bench.compare import Verdict, overall
from sparsekern.cli.compare.revisions import Revision, complaint, default_cache, source
from sparsekern.cli.progress import say

MARGIN = 0.01
COUNT = Path(__file__).with_name("count.cpp")
FLAGS = ("-std=c++17", "-O3", "-fno-wrapv")  # setup.py's
ISAS = {"avx2": "kAvx2", "scalar": "kScalar", "neon": "kNeon"}
"""name -> the object in csrc/cpu/isa_<name>.cpp."""

COUNTED: dict[str, tuple[str, ...]] = {
    "linear dots 1x1, batch 1": ("linear", "dots", "1", "256", "512", "1"),
    "linear outputs 16x1, batch 1": ("linear", "outputs", "1", "256", "512", "16"),
    "linear rows 16x1": ("linear", "rows", "32", "256", "256", "16"),
    "linear panels 1x1": ("linear", "panels", "32", "256", "256", "1"),
    "grad_input blocks 16x1": ("grad_input", "blocks", "32", "256", "256", "16"),
    "grad_input panels 1x1": ("grad_input", "panels", "32", "256", "256", "1"),
    "grad_values blocks 16x1": ("grad_values", "blocks", "32", "256", "256", "16"),
    "grad_values panels 1x1": ("grad_values", "panels", "32", "256", "256", "1"),
}
"""name -> op, kernel, m, n, k, height of the blocks: arguments of count.cpp."""


def compare_counts(options: argparse.Namespace) -> dict[str, Any]:
    """What `sparsekern compare --counts` finds. ValueError where there is no valgrind or no compiler."""
    missing = [program for program in ("valgrind", "g++") if not shutil.which(program)]
    if missing:
        raise ValueError(f"--counts needs {' and '.join(missing)}: not installed here")
    sides = [Revision.find(name) for name in (options.base, options.head)]
    cache = (options.cache or default_cache()).resolve()
    begun = monotonic()
    found = {side: counts_of(side, cache) for side in dict.fromkeys(sides)}
    before, after = (found[side] for side in sides)
    rows = {name: _row(before[name], after[name]) for name in COUNTED}
    return {
        "verdict": overall(row["verdict"] for row in rows.values() if "verdict" in row),
        "margin": MARGIN,
        "unit": "instructions",
        "cases": rows,
        "base": str(sides[0]),
        "head": str(sides[1]),
        "commits": [side.commit for side in sides],
        "wall_s": monotonic() - begun,
        "machine": machine.describe(),
    }


def counts_of(revision: Revision, cache: Path) -> dict[str, int | str]:
    """Instructions by case, or why there are none; the program is built once for each commit."""
    cache.mkdir(parents=True, exist_ok=True)
    own = hashlib.sha256(COUNT.read_bytes()).hexdigest()[:12]
    program = cache / f"{revision.commit}-count-{own}"
    if not program.exists():
        say(f"building the kernels of {revision}", sys.stderr)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".building-") as folder:
            built = build(source(revision, Path(folder) / "source"), Path(folder))
            built.rename(program)
    return {name: count(program, arguments) for name, arguments in COUNTED.items()}


def build(tree: Path, folder: Path, isa: str = "avx2", flags: Sequence[str] = FLAGS) -> Path:
    """The program, in `folder`, from csrc in `tree`. ValueError with the compiler's first complaint."""
    names = (f"csrc/cpu/isa_{isa}.cpp", "csrc/cpu/conv.cpp", "csrc/cpu/panel_index.cpp")
    sources = [COUNT, *(tree / name for name in names)]
    command = ["g++", *flags, f"-DSPARSEKERN_COUNTED={ISAS[isa]}", f"-I{tree / 'csrc'}"]
    objects = [folder / f"{path.stem}.o" for path in sources]

    def compile_one(path: Path, to: Path) -> subprocess.CompletedProcess[str]:
        return _run([*command, "-c", str(path), "-o", str(to)])

    with ThreadPoolExecutor(machine.usable_cpus()) as pool:
        done = list(pool.map(compile_one, sources, objects))
    program = folder / "count"
    done.append(_run(["g++", *map(str, objects), "-o", str(program)]))
    if failed := [one for one in done if one.returncode != 0]:
        raise ValueError(f"the kernels of {tree} cannot be counted: {complaint(failed[0].stderr)}")
    return program


def count(program: Path, arguments: Sequence[str]) -> int | str:
    """Instructions of one call, or why it could not be made, in words."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--tool=callgrind", "--toggle-collect=counted_*", f"--callgrind-out-file={folder}/out"]
        done = _run(["valgrind", *options, str(program), *arguments])
    if done.returncode == 3:
        return next(text for text in done.stderr.splitlines() if text.startswith("no kernel"))
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None or int(found[1]) == 0:
        raise ValueError(f"valgrind counted nothing: {complaint(done.stderr)}")
    return int(found[1])


def _row(base: int | str, head: int | str) -> Mapping[str, Any]:
    if isinstance(base, str) or isinstance(head, str):
        return {"refusal": f"not counted: {base if isinstance(base, str) else head}"}
    ratio = head / base
    verdict: Verdict = "same"
    if not 1 / (1 + MARGIN) <= ratio <= 1 + MARGIN:
        verdict = "slower" if ratio > 1 else "faster"
    return {"base": base, "head": head, "ratio": ratio, "verdict": verdict}


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
