"""Instruction counts: equal to the instruction for one build, and an added instruction is seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sparsekern.cli.compare import counts
from sparsekern.cli.compare.counts import COUNT, COUNTED, ISAS, build, count

ROOT = Path(__file__).parents[2]
SIZES = ("linear", "loop", "4", "64", "64", "1")

# The real kernels take minutes to compile on a busy machine: this one has their interface, and one loop.
KERNEL = """\
#include "cpu/kernels.h"
namespace sparsekern {
extern const Isa kScalar;
static bool takes(const LinearArgs&) { return true; }
static int64_t tiles(const LinearArgs& a) { return a.m; }
static size_t scratch(const LinearArgs&) { return 16; }
static void run(const LinearArgs& a, int64_t begin, int64_t end, float*) {
  for (int64_t row = begin; row < end; ++row)
    for (int64_t n = 0; n < a.n; ++n) {
      float sum = a.bias[n];
      for (int32_t j = a.crow[n]; j < a.crow[n + 1]; ++j) {
        sum += a.values[j] * a.x[row * a.x_stride + a.col[j]];
        ADDED
      }
      a.y[row * a.n + n] = sum;
    }
}
const Isa kScalar = {"scalar", nullptr, KERNELS};
}  // namespace sparsekern
"""

KERNELS = ", ".join(f'{{"{name}", false, takes, tiles, scratch, run}}' for name in ("loop", "b", "c", "d"))
KERNELS = f"{{{KERNELS}}}"

needs_tools = pytest.mark.skipif(
    not (shutil.which("valgrind") and shutil.which("g++")), reason="needs valgrind and g++"
)


def tree(folder: Path, added: str) -> Path:
    """Sources with the real headers and one kernel, in whose inner loop `added` stands."""
    shutil.copytree(ROOT / "csrc" / "cpu", folder / "csrc" / "cpu", ignore=shutil.ignore_patterns("isa_*"))
    (folder / "csrc/cpu/conv.cpp").write_text("")
    (folder / "csrc/cpu/isa_scalar.cpp").write_text(
        KERNEL.replace("ADDED", added).replace("KERNELS", KERNELS)
    )
    return folder


@needs_tools
def test_counts_are_exact_and_see_one_added_instruction(tmp_path: Path) -> None:
    found = []
    for name, added in (("base", ""), ("head", 'asm volatile("nop");')):
        program = build(tree(tmp_path / name, added), tmp_path / name, "scalar", ("-std=c++17", "-O0"))
        found.append([count(program, SIZES) for _ in range(2)])
    (base, again), (head, _) = found
    assert isinstance(base, int) and isinstance(head, int)
    assert base == again
    blocks = (head - base) / 4  # a nop for each nonzero and row
    assert blocks == int(blocks) and 300 < blocks < 500  # a tenth of 64 x 64
    assert counts._row(base, again)["verdict"] == "same"
    assert counts._row(base, head)["verdict"] == "slower"
    assert count(program, ("linear", "rows", *SIZES[2:])) == "no kernel rows of linear takes these sizes"


@needs_tools
def test_sources_that_do_not_compile_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be counted: .*error: "):
        build(tree(tmp_path, "nonsense"), tmp_path, "scalar", ("-std=c++17", "-O0"))


def test_the_gate_is_one_percent() -> None:
    verdicts = {head: counts._row(10000, head)["verdict"] for head in (9900, 9901, 10000, 10100, 10101)}
    assert verdicts == {9900: "faster", 9901: "same", 10000: "same", 10100: "same", 10101: "slower"}
    assert counts._row("does not compile", 1) == {"refusal": "not counted: does not compile"}


def test_what_is_counted_is_there() -> None:
    assert COUNT.exists()
    kernels = "".join(path.read_text() for path in (ROOT / "csrc" / "cpu").glob("*.h"))
    for arguments in COUNTED.values():
        assert arguments[1] == "blocks" or f'{{"{arguments[1]}",' in kernels
    for isa, name in ISAS.items():
        assert f"const Isa {name} = " in (ROOT / "csrc" / "cpu" / f"isa_{isa}.cpp").read_text()
