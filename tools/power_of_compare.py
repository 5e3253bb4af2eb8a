"""How often `sparsekern compare` is right: builds with a kernel slowed down by a known share, and A/A pairs.

    python tools/power_of_compare.py prepare --shares 0 0.03 0.05
    python tools/power_of_compare.py run --share 0 --trials 100 --out docs/results/compare-aa.jsonl

`prepare` clones this repository into a scratch folder, commits a patch for each share (after every product
of a Linear on the CPU the thread spins for that share of the time it took), and builds all of them. `run`
appends a line for each trial and goes on where it stopped. With share 0 both sides are the same commit. A
spinning process, which floats over the CPUs, loads one of them during trials 0, 2, 4, ... (half), all or
none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

ROOT = Path(__file__).parents[1]
SCRATCH = Path(tempfile.gettempdir()) / "sparsekern-power"
PATCHED = "csrc/op_linear.cpp"
PRODUCT = "  if (args.m != 0 && n != 0) run_on_values(kernel, args, values);\n"
# It ends with who started it, however that ends.
SPINNING = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""
SLOWED = """\
  const auto begun = std::chrono::steady_clock::now();
{product}\
  const auto ready = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - ready < (ready - begun) * {share}) {{
  }}
"""


def main() -> None:
    """The two commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="clone and builds (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    prepare_ = commands.add_parser("prepare")
    prepare_.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.03, 0.05])
    run_ = commands.add_parser("run")
    run_.add_argument("--share", type=float, required=True)
    run_.add_argument("--trials", type=int, required=True, help="in the file, when it is done")
    run_.add_argument("--load", choices=("none", "half", "all"), default="half")
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--arguments", default="", help="more arguments of compare, such as '--budget 300'")
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.scratch, options.shares)
    else:
        run(options)


def prepare(scratch: Path, shares: list[float]) -> None:
    """A clone with a branch for each share, all of them built."""
    clone = scratch / "clone"
    if not clone.exists():
        _git(ROOT, "clone", "--quiet", str(ROOT), str(clone))
    base = _git(ROOT, "rev-parse", "HEAD")
    _git(clone, "fetch", "--quiet", str(ROOT), base)
    for share in shares:
        _git(clone, "checkout", "--quiet", "--force", "-B", _branch(share), base)
        path = clone / PATCHED
        text = path.read_text()
        if text.count(PRODUCT) != 1:
            raise ValueError(f"{PATCHED}: expected one line {PRODUCT.strip()}")
        # Base carries the clock too: what is compared differs in the share alone.
        slowed = text.replace(PRODUCT, SLOWED.format(product=PRODUCT, share=share))
        path.write_text(slowed.replace("#include <memory>", "#include <chrono>\n#include <memory>"))
        author = ("-c", "user.name=power", "-c", "user.email=power@localhost")
        _git(clone, *author, "commit", "--quiet", "--all", "--message", f"Slow Linear down by {share}")
    for share in shares:
        print(f"building {share}", flush=True)
        done = _compare(scratch, share, "--cases", "tiny", "--rounds", "1")
        if done.returncode != 2 or "undecided" not in done.stdout:
            raise ValueError(done.stderr.strip() or done.stdout)


def run(options: argparse.Namespace) -> None:
    """Trials until the file holds as many as wanted."""
    past = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    trials = [trial for trial in past if trial["share"] == options.share and trial["load"] == options.load]
    for number in range(len(trials), options.trials):
        loaded = options.load == "all" or (options.load == "half" and number % 2 == 0)
        trial = {"share": options.share, "load": options.load, "trial": number, "loaded": loaded}
        trial |= _trial(options, number, loaded)
        with options.out.open("a") as file:
            file.write(json.dumps(trial) + "\n")
        trials.append(trial)
        print(f"{number}: {trial['verdict']} in {trial['seconds']:.0f} s", flush=True)
    print(dict(Counter(trial["verdict"] for trial in trials)))


def _trial(options: argparse.Namespace, number: int, loaded: bool) -> dict[str, Any]:
    with ExitStack() as stack:
        if loaded:
            stack.callback(_end, subprocess.Popen([sys.executable, "-c", SPINNING]))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        start = monotonic()
        arguments = ("--seed", str(number), "--json", str(folder / "x.json"), *options.arguments.split())
        done = _compare(options.scratch, options.share, *arguments)
        seconds = monotonic() - start
        if not (folder / "x.json").exists():
            raise ValueError(done.stderr.strip())
        result = json.loads((folder / "x.json").read_text())
    kept = {key: result[key] for key in ("verdict", "rounds", "cases", "machine", "versions", "commits")}
    return {"seconds": seconds, "exit": done.returncode, **kept}


def _compare(scratch: Path, share: float, *more: str) -> subprocess.CompletedProcess[str]:
    # -P: not the clone, in which it runs, but this code compares.
    command = [sys.executable, "-P", "-m", "sparsekern", "compare", _branch(0.0), _branch(share)]
    return subprocess.run(
        [*command, "--cache", str(scratch / "builds"), *more],
        cwd=scratch / "clone",
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def _branch(share: float) -> str:
    return f"slower-by-{share:g}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
