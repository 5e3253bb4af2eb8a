"""`sparsekern inspect`: a table or JSON of what was compiled; faults, and why nothing was, in words."""

from __future__ import annotations

import json
import sys

import pytest

from sparsekern import cli
from sparsekern.kernels.triton.launch import SHARED, Launch

pytest.importorskip("triton")

from sparsekern.kernels.triton import offline
from sparsekern.kernels.triton.offline import Case, Compiled

COUNTS = {"wgmma": 4, "tma": 7, "all": 2680}
CASE = Case("linear", (64, 16), m=256, n=512, k=1024, activation="gelu")
WELL = Compiled("product_tma", "sm_90", 90152, COUNTS, registers=128, stack_bytes=0)


def planted(monkeypatch: pytest.MonkeyPatch, *found: Compiled | RuntimeError) -> None:
    """Each case is compiled to the next of `found`."""
    left = list(found)

    def compile_offline(case: Case, arch: str, launch: Launch) -> list[Compiled]:
        one = left.pop(0)
        if isinstance(one, RuntimeError):
            raise one
        return [one]

    monkeypatch.setattr(offline, "CASES", (CASE,) * len(found))
    monkeypatch.setattr(offline, "compile_offline", compile_offline)


def test_the_table_says_what_was_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(monkeypatch, WELL, Compiled("finish", "sm_90", 0, {"wgmma": 0}, unknown="cuobjdump does not run"))
    assert cli.main(["inspect"]) == 0
    said = capsys.readouterr()
    head, columns, _, first, second, reason = said.out.splitlines()
    assert (
        head.startswith(f"Triton {offline.VERSION} for sm_90, ")
        and f"sm_90, where a program has {227 * 1024} bytes" in head
    )
    assert columns.split(" | ")[3:] == ["registers", "spilled bytes", "shared bytes", "wgmma", "tma", "all |"]
    cells = first.strip("| ").split(" | ")
    assert cells[:2] == ["product_tma", "linear 64x16 bfloat16 m 256 n 512 k 1024 gelu"]
    assert cells[2].startswith("tma rows 128 step ") and cells[3:] == ["128", "0", "90152", "4", "7", "2680"]
    assert second.split(" | ")[3:] == ["?", "?", "0", "0", "?", "? |"]
    assert reason == "unknown: cuobjdump does not run" and said.err == ""


def test_json_is_strict_and_leaves_out_what_is_not_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(monkeypatch, WELL, Compiled("finish", "sm_90", 0, {}, unknown="cuobjdump does not run"))
    assert cli.main(["inspect", "--arch", "sm_80", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["arch"], found["shared_limit_bytes"]) == ("sm_80", SHARED["sm_80"] * 1024)
    first, second = found["kernels"]
    assert first["case"] == {**CASE._asdict(), "block": [64, 16]}
    assert first["launch"]["kernel"] == "pointers"  # sm_80 has no tensor descriptors
    assert (first["registers"], first["stack_bytes"], first["instructions"]) == (128, 0, COUNTS)
    assert "unknown" not in first and second["unknown"] == "cuobjdump does not run"
    assert not {"registers", "stack_bytes"} & set(second)


@pytest.mark.parametrize("json_too", [False, True])
@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            Compiled("product_few", "sm_90", 0, COUNTS, registers=255, stack_bytes=336),
            ": product_few spills 336 bytes of a thread's registers",
        ),
        (
            Compiled("finish", "sm_90", 300000, COUNTS, registers=255, stack_bytes=0),
            ": finish takes 300000 bytes of shared memory, sm_90 has 232448",
        ),
        (
            RuntimeError("finish does not compile:\n shapes differ"),
            ": finish does not compile: shapes differ",
        ),
    ],
)
def test_a_fault_is_one_line_and_exit_1(
    found: Compiled | RuntimeError,
    sentence: str,
    json_too: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    planted(monkeypatch, WELL, found)
    assert cli.main(["inspect", *["--json"] * json_too]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("sparsekern: linear 64x16 bfloat16 m 256 n 512 k 1024 gelu, tma rows 128")
    assert said.err.endswith(f"{sentence}\n") and said.err.count("\n") == 1
    assert not json_too or json.loads(said.out)["kernels"][1]["faults"][0] in sentence


@pytest.mark.parametrize(
    ("arguments", "line"),
    [(["--arch", "sm_70"], "invalid choice: 'sm_70'"), ([], "TRITON_INTERPRET=1 has Triton run kernels in")],
)
def test_what_cannot_be_inspected_is_exit_2(
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(offline.bsr_linear, "INTERPRETED", True)
    assert _exit_code(["inspect", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and line in said.err and said.err.count("\n") == 1


def test_without_triton_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert _exit_code(["inspect"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Triton, which is not installed" in said.err and said.err.count("\n") == 1


def test_it_offers_every_architecture_that_can_be_compiled_for() -> None:
    assert tuple(offline.MULTIPROCESSORS) == cli.ARCHES


def _exit_code(arguments: list[str]) -> object:
    try:
        return cli.main(arguments)
    except SystemExit as stop:  # argparse's own way out
        return stop.code
