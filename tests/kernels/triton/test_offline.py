"""The Triton kernels in machine code: they use the units made for them, fit the device and spill nothing."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from sparsekern.kernels.triton import bsr_conv2d, bsr_kernels, bsr_linear, conv_kernels, offline
from sparsekern.kernels.triton.launch import SHARED, Launch, Task
from sparsekern.kernels.triton.offline import CASES, MULTIPROCESSORS, Case, Compiled, compile_offline

ARCHES = tuple(MULTIPROCESSORS)
PRODUCTS = ("product_tma", "product_pointers", "conv_product_tma", "conv_product")

Entry = dict[str, Any]


@pytest.fixture(scope="module")
def inspected() -> dict[str, list[Entry]]:
    """What `sparsekern inspect` finds, by architecture. In processes of their own: the interpreter, under
    which the other tests run, is chosen when Triton is imported."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "sparsekern", "inspect", "--json", "--arch"]
    running = [
        subprocess.Popen([*command, arch], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for arch in ARCHES
    ]
    said = [process.communicate() for process in running]
    assert all(process.returncode in (0, 1) for process in running), said
    return {arch: json.loads(out)["kernels"] for arch, (out, _) in zip(ARCHES, said, strict=True)}


@pytest.mark.parametrize("arch", ARCHES)
def test_every_case_compiles_fits_the_device_and_spills_nothing(
    inspected: dict[str, list[Entry]], arch: str
) -> None:
    entries = inspected[arch]
    assert {_case(entry) for entry in entries} == set(CASES)
    assert [(entry["case"], entry["launch"], fault) for entry in entries for fault in entry["faults"]] == []
    for entry in entries:
        assert 0 < entry["registers"] <= 255 and entry["stack_bytes"] == 0
        assert entry["shared_bytes"] <= SHARED[arch] * 1024


@pytest.mark.parametrize(
    ("arch", "matrix", "copy"),
    [("sm_80", "mma.sync", "cp.async"), ("sm_90", "wgmma", "tma"), ("sm_100", "tcgen05.mma", "tma")],
)
def test_products_use_the_units_of_their_architecture(
    inspected: dict[str, list[Entry]], arch: str, matrix: str, copy: str
) -> None:
    products = [entry for entry in inspected[arch] if entry.get("kernel") in PRODUCTS]
    assert any(entry["launch"]["kernel"] == "tma" for entry in products) == (copy == "tma")
    for entry in products:
        counts, launch = entry["instructions"], entry["launch"]
        if entry["case"]["dtype"] != "float32":  # which is not rounded to what matrix units take
            assert launch["rows"] >= 64 and counts[matrix] > 0, entry
        copies = {"tma": "tma", "pointers": "cp.async"}[launch["kernel"]]
        assert counts[copies] > 0 and entry["kernel"].endswith("_tma") == (copies == "tma"), entry
        assert counts["all"] > sum(counts[name] for name in counts if name != "all")


@pytest.mark.parametrize("arch", ARCHES)
def test_other_kernels_use_matrix_units_and_load_ahead(inspected: dict[str, list[Entry]], arch: str) -> None:
    others = [entry for entry in inspected[arch] if entry.get("kernel") not in (*PRODUCTS, "finish")]
    assert {entry["kernel"] for entry in others} == {"product_few", "values_gradient", "conv_values_gradient"}
    for entry in others:
        counts = entry["instructions"]
        assert counts["wgmma"] + counts["mma.sync"] + counts["tcgen05.mma"] > 0, entry
        assert counts["cp.async"] > 0, entry


def test_every_kernel_is_compiled(inspected: dict[str, list[Entry]]) -> None:
    called = {entry["kernel"] for entry in inspected["sm_90"]}
    assert called == launched(bsr_kernels.__file__, conv_kernels.__file__)


def launched(*files: str | None) -> set[str]:
    """The functions in these files that no function in them calls."""
    trees = [ast.parse(Path(file or "").read_text("utf-8")) for file in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    called = {
        node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)} - called


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_a_case_has_the_task_that_its_launcher_sees(
    case: Case, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        """The launcher got as far as to choose how to launch."""

    seen = []

    def choose(task: Task) -> Launch:
        seen.append(task)
        raise Asked

    gpu = bsr_linear.Gpu(arch, arch, MULTIPROCESSORS[arch])
    monkeypatch.setattr(bsr_linear, "gpu_of", lambda device: gpu)
    for module in (bsr_linear, bsr_conv2d):
        monkeypatch.setattr(module, "choose", choose)
    with pytest.raises(Asked):
        offline.CALLS[case.kind](case, None)
    assert seen == [case.task(arch)]


def test_what_cannot_be_compiled_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected one of sm_80, sm_90, sm_100, got 'sm_70'"):
        CASES[0].task("sm_70")
    monkeypatch.setattr(bsr_linear, "INTERPRETED", True)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        compile_offline(CASES[0], "sm_90")


def test_faults_are_said_in_words() -> None:
    good = Compiled("product_tma", "sm_90", 227 * 1024, {}, registers=255, stack_bytes=0)
    bad = Compiled("product_tma", "sm_80", 163 * 1024 + 1, {}, registers=255, stack_bytes=16)
    assert good.faults() == []
    assert bad.faults() == [
        "spills 16 bytes of a thread's registers",
        "takes 166913 bytes of shared memory, sm_80 has 166912",
    ]


def _case(entry: Entry) -> Case:
    return Case(**{**entry["case"], "block": tuple(entry["case"]["block"])})
