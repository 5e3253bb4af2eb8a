"""Builds a wheel for each Python in pip's isolated mode, with no torch, and tries it in a clean environment.

python tools/try_wheels.py python3.10 python3.11 --torch torch==2.13.0 --out wheels

An environment has the wheel, torch as asked for, and what these two need. Where pip finds no such torch,
it has the wheel alone: then what ``import sparsekern`` says is shown, and that the extension loads.
"""

from __future__ import annotations

import argparse
import subprocess
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST_MB = 5.0
KEPT = (".py", ".pyi", ".typed", ".j2", ".json", ".npz")
"""Of the package's folder, what a user gets."""

WITHOUT_TORCH = """
import importlib.machinery, importlib.util, sys
try:
    import sparsekern
except ModuleNotFoundError as error:
    print("import sparsekern:", error)
folder = importlib.util.find_spec("sparsekern").submodule_search_locations
spec = importlib.machinery.PathFinder.find_spec("sparsekern._core", folder)
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
print(f"Python {sys.version.split()[0]}: the extension alone runs on", *core.isas())
"""


def faults(wheel: Path) -> list[str]:
    """What is wrong with a wheel of this tree, a sentence each."""
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "sparsekern"
    wanted = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.suffix in KEPT}
    found = [f"{name}: expected in the wheel, and is not" for name in sorted(wanted - names)]
    if not any(name.startswith("sparsekern/_core.") and name.endswith((".so", ".pyd")) for name in names):
        found.append("sparsekern/_core: expected an extension in the wheel, got none")
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/"
    strange = sorted(name for name in names if not name.startswith(("sparsekern/", info)))
    found += [f"{name}: expected nothing in the wheel but the package" for name in strange]
    size_mb = wheel.stat().st_size / 1e6
    if size_mb >= LARGEST_MB:
        found.append(f"expected less than {LARGEST_MB:g} MB, got {size_mb:.2f}")
    return found


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command prints; CalledProcessError if it fails."""
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def build(python: str, out: Path) -> Path:
    """The wheel of this tree for one Python, built where only what pyproject.toml asks for is installed."""
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, ROOT)
    tag = run(python, "-c", "import sys; print('cp%d%d' % sys.version_info[:2])").strip()
    (wheel,) = out.glob(f"sparsekern-*-{tag}-{tag}-*.whl")
    return wheel


def try_(python: str, wheel: Path, torch: str, environment: Path) -> str:
    """What an installed wheel prints: tools/smoke_wheel.py where pip finds ``torch``, else what can be seen
    without it."""
    run(python, "-m", "venv", "--clear", environment)
    inside = environment / "bin" / "python"
    pip = (inside, "-m", "pip", "install", "--quiet", "--only-binary", ":all:")
    try:
        run(*pip, torch)
    except subprocess.CalledProcessError:  # pip has said why
        run(*pip, "--no-deps", "numpy", wheel)
        return f"without torch: {run(inside, '-c', WITHOUT_TORCH, cwd=environment)}"
    run(*pip, wheel)
    return run(inside, ROOT / "tools" / "smoke_wheel.py", cwd=environment)


def main() -> None:
    """Prints, for each Python, the wheel's size and what it does; an error says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pythons", nargs="+", help="interpreters")
    parser.add_argument("--torch", default="torch", help="pip's requirement (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for wheels and environments")
    given = parser.parse_args()
    out = given.out.resolve()
    for python in given.pythons:
        wheel = build(python, out)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB", flush=True)
        if found := faults(wheel):
            raise SystemExit("\n".join(found))
        print(try_(python, wheel, given.torch, out / wheel.name.split("-")[2]), flush=True)


if __name__ == "__main__":
    main()
