"""Every part of `sparsekern gpu` walked on the CPU, in Triton's interpreter, by a clock that stands still."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import log2
from pathlib import Path
from time import perf_counter

import pytest
import torch
from torch import Tensor

from sparsekern.bench.cuda import Recorded
from sparsekern.bench.record import strict_json
from sparsekern.cli import main
from sparsekern.cli.gpu import check, checks, conv, linear, model, rivals, sanitize, train, tune
from sparsekern.cli.gpu.setting import TINY, Entry, Setting
from sparsekern.kernels.select import PackedWeight
from sparsekern.kernels.triton import cache
from sparsekern.kernels.triton.tune import Product

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for the CPU")


class StillClock:
    """Every run takes so many us; each call runs once, so that it is known to run."""

    def __init__(self, us: float = 500.0) -> None:
        self.us = us

    def record(self, call: Callable[[], object], graph: bool) -> Recorded:
        call()
        return Recorded(lambda: None, graph)

    def time_us(self, recorded: Recorded) -> float:
        return self.us

    def flush(self) -> None: ...

    def now_s(self) -> float:
        return 0.0


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setenv("SPARSEKERN_CACHE", str(tmp_path / "cache"))
    cache.load.cache_clear()
    cache.choose.cache_clear()
    return Setting(torch.device("cpu"), StillClock(), perf_counter() + 600, tmp_path, tiny=True)


def late(here: Setting) -> Setting:
    return Setting(here.device, here.clock, perf_counter() - 1, here.out, tiny=True)


def walked(entries: list[Entry]) -> list[Entry]:
    """Plain data in strict JSON, and none of it an error."""
    assert [entry for entry in entries if "error" in entry] == []
    plain: list[Entry] = json.loads(strict_json(entries))
    return plain


def test_linear(here: Setting) -> None:
    entries = walked(list(linear.run(here)))
    ours = [entry for entry in entries if entry["rival"] == "sparsekern"]
    assert [entry["sparsity"] for entry in ours] == [0.5, 0.9]
    assert all(entry["cold_speedup"]["value"] == entry["warm_speedup"]["value"] == 1.0 for entry in ours)
    assert ours[0]["flops"] == 2 * 20 * 32 * 32 // 2 and ours[0]["cold_per_flop"] == 0.5
    assert ours[0]["launch"]["kernel"] == "few" and ours[0]["cold_best_dense"] == "cublas"
    refused = {entry["rival"]: entry["refusal"] for entry in entries if "refusal" in entry}
    assert set(refused) == {"compiled", "two_of_four", "torch_bsr_64"}
    assert "CUDA" in refused["two_of_four"] and "divisible" in refused["torch_bsr_64"]
    table = list(linear.lines(entries))
    assert any(line.startswith("| 20x32x32 | 437.5 | 437.5 |  |") for line in table)  # a flush takes 62.5
    (row,) = [line for line in table if line.startswith("| 20x32x32 | 16x16 |")]
    assert row.split(" | ")[2:6] == ["1.00", "", "1.00", ""] and row.endswith("| < 50 % |")
    assert any(line.startswith("- two_of_four refuses, as at 20x32x32: ") for line in table)


def test_linear_says_what_of_ours_is_wrong_and_goes_on(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = linear.linear_packed, list[object]()

    def broken(x: Tensor, weight: PackedWeight, kernel: str) -> Tensor:
        seen.append(weight)
        return real(x, weight, kernel) + (weight is seen[0])

    monkeypatch.setattr(linear, "linear_packed", broken)
    entries = list(linear.run(here))
    (wrong,) = [entry for entry in entries if "error" in entry]
    assert wrong["sparsity"] == 0.5 and "wrong by" in wrong["error"] and "cold_us" not in wrong
    assert any("wrong by" in line for line in linear.lines(entries))
    assert [e["sparsity"] for e in entries if e["rival"] == "sparsekern" and "cold_us" in e] == [0.9]


def test_a_rival_that_is_wrong_or_raises_is_a_refusal(here: Setting) -> None:
    def raises(weight: Tensor, bias: Tensor, x: Tensor) -> rivals.Prepared:
        raise ZeroDivisionError("no blocks\nat all")

    weight, bias, x = torch.randn(8, 8), torch.randn(8), torch.randn(4, 8)
    assert rivals.attempt(raises, weight, bias, x) == "ZeroDivisionError: no blocks"
    masked = rivals.RIVALS["cublas_masked"]
    prepared = rivals.attempt(masked, torch.randn(64, 64), torch.randn(64), torch.randn(4, 64))
    assert isinstance(prepared, rivals.Prepared) and bool((prepared.weight == 0).any())


def test_tune(here: Setting) -> None:
    entries = walked(list(tune.run(here)))
    assert entries[0]["launch"]["kernel"] == "few"
    assert entries[0]["time_us"] == entries[0]["default_us"] == 437.5  # of 500, less a flush
    table = cache.read(here.out / entries[-1]["table"])
    assert entries[-1]["table"] == "tuned-sm_90.json" and len(table) == 1
    assert table == cache.read(cache.path_of("interpreter"))
    lines = list(tune.lines(entries))
    assert lines[2].startswith("| linear | 16x16 | ") and lines[2].endswith("| 1.00 |")


def test_tune_goes_on_after_an_error(here: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = tune.tune.tune, list[object]()

    def fails_at_first(item: Product, *given: object, **more: float) -> object:
        seen.append(item)
        if len(seen) == 1:
            raise RuntimeError("PassManager::run failed")
        return real(item, *given, budget_s=0.0)  # type: ignore[arg-type]

    monkeypatch.setattr(tune.tune, "tune", fails_at_first)
    monkeypatch.setattr(tune, "cases", lambda tiny: [tune.Case(2, 16, 16, (16, 16), 0.0)] * 2)
    entries = list(tune.run(here))
    assert [sorted({"error", "launch", "table"} & set(entry)) for entry in entries] == [
        ["error"],
        ["launch"],
        ["table"],
    ]
    assert "- linear 2x16x16 [16, 16]: RuntimeError: PassManager::run failed" in list(tune.lines(entries))


def test_tune_as_a_command_takes_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TINY, "0")
    monkeypatch.setenv("SPARSEKERN_CACHE", str(tmp_path))
    monkeypatch.setattr(tune, "TINY_S", 0.1)
    cache.load.cache_clear()
    sizes = ["--shape", "16x32", "--batch", "2", "3", "--block", "16x16", "--sparsity", "0.5"]
    assert main(["tune", "--tiny", *sizes]) == 0
    said = capsys.readouterr()
    assert "linear 2x16x32" in said.err and "linear 3x16x32" in said.err
    assert str(tmp_path) in said.out and len(cache.read(cache.path_of("interpreter"))) == 2


def test_the_cases_of_tune_reach_what_linear_times() -> None:
    """Shapes and blocks are the same, and launches are taken over from one sparsity to all that are timed."""
    tuned = {(case.m, case.n, case.k, case.block) for case in tune.cases(False)}
    timed = [case for case in linear.cases(False)]
    assert {(*case.shape, block) for case in timed for block in case.blocks} <= tuned
    assert all(abs(log2((1 - tune.SPARSITY) / (1 - share))) <= 2 + 1e-9 for share in linear.SPARSITIES)


def test_conv(here: Setting) -> None:
    entries = walked(list(conv.run(here)))
    assert [entry["rival"] for entry in entries] == ["cudnn", "cudnn_masked", "sparsekern"]
    assert entries[0]["flops"] == 2 * 16 * 16 * 16 * 9  # pixels, outputs, inputs, taps
    lines = list(conv.lines(entries))
    assert lines[3].startswith("| 1x16x4x4, 3x3 to 16 | 16x16 | 50 % | ") and "| 1.00 | 1.00 |" in lines[3]


def test_train(here: Setting) -> None:
    entries = walked(list(train.run(here)))
    assert {entry["phase"] for entry in entries} == set(train.PHASES)
    every = {entry["phase"]: entry["flops"] for entry in entries if entry["rival"] == "sparsekern"}
    assert every["all"] == 3 * every["forward"] == 3 * every["gradient of W"]
    lines = list(train.lines(entries))
    assert lines[3].startswith("| 20x32x32 | 16x16 | 50 % | 1.00 | 1.00 | 1.00 | 1.00 | ")


def test_train_says_which_product_is_wrong(here: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def computed(weight: object, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        y, to_x, to_weight = checks.computed(weight, x, grad)  # type: ignore[arg-type]
        return y, to_x * 1.01, to_weight

    monkeypatch.setattr(train, "computed", computed)
    entries = list(train.run(here))
    assert [entry["error"].split(":")[0] for entry in entries if "error" in entry] == ["gradient of x"]
    assert [entry["rival"] for entry in entries if "cold_us" in entry] == ["torch"] * 4


def test_check(here: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    # It takes seconds, and is tested with the ops.
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    entries = walked(list(check.run(here)))
    assert [entry["check"] for entry in entries] == ["products", "products", *checks.CHECKS]
    lines = list(check.lines(entries))
    assert "| products | 2 | 0 | 0 |  |" in lines and "| launches | 1 | 0 | 0 | 2 right |" in lines


def test_check_finds_what_is_wrong(here: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def computed(weight: object, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        y, to_x, to_weight = checks.computed(weight, x, grad)  # type: ignore[arg-type]
        to_weight = to_weight.clone()
        to_weight[0, 0] += 1
        return y, to_x, to_weight

    monkeypatch.setattr(check, "computed", computed)
    monkeypatch.setattr(check, "CHECKS", {})
    first, second = check.run(here)
    assert "gradient of the values, m = 1: wrong by 1.0" in first["error"] and "error" in second
    assert "| products | 0 | 2 | 0 |  |" in list(check.lines([first, second]))


def test_check_does_not_begin_products_when_its_time_is_up(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "CHECKS", {})
    only = check.Products((16, 16), torch.bfloat16, (16, 16), "full", (2,))
    monkeypatch.setattr(check, "plan", lambda tiny: [only])
    given = Setting(here.device, here.clock, perf_counter() + check.FOR_OTHERS_S - 1, here.out)
    assert list(check.run(given)) == [
        {"check": "products", "of": "16x16 in 16x16, bfloat16, full", "skipped": "no time left"}
    ]


def test_the_plan_of_check_covers_what_the_kernels_promise() -> None:
    plan = check.plan(False)
    assert {of.dtype for of in plan} == set(checks.DTYPES) and {of.pattern for of in plan} == set(
        check.PATTERNS
    )
    assert {of.block for of in plan} >= set(linear.BLOCKS)
    assert {m for of in plan for m in of.rows} == {1, 2, 5, 16, 17, 33, 128, 1000}


def test_model(here: Setting) -> None:
    entries = walked(list(model.run(here)))
    assert [entry["network"] for entry in entries] == list(model.NETWORKS)
    assert all(
        entry["eager"]["speedup"]["value"] == entry["graph"]["speedup"]["value"] == 1 for entry in entries
    )
    assert all(len(entry["swap"]["layers"]) >= 2 for entry in entries)
    lines = list(model.lines(entries))
    assert lines[2].startswith("| ViT-H/14 MLPs | ") and lines[3].startswith("| ResNet-20 | ")


def test_model_says_when_it_is_slower_or_wrong(here: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def ruin(network: torch.nn.Module, x: Tensor) -> object:
        for parameter in network.parameters():
            parameter.data.mul_(2)
        return type("Report", (), {"to_json": lambda self: {"layers": []}})()

    monkeypatch.setattr(model, "swap_", ruin)
    monkeypatch.setattr(model, "NETWORKS", {"toy": model._vit_mlp})
    (entry,) = model.run(here)
    assert "away from the dense network's" in entry["error"]


@pytest.mark.parametrize(
    "part", [linear, conv, train, model], ids=lambda part: part.__name__.rpartition(".")[2]
)
def test_no_time_left_is_said(part: object, here: Setting) -> None:
    entries = list(part.run(late(here)))  # type: ignore[attr-defined]
    assert entries and {entry["skipped"] for entry in entries} == {"no time left"}
    assert any("no time left" in line for line in part.lines(entries))  # type: ignore[attr-defined]


def test_tune_says_what_it_did_not_reach(here: Setting) -> None:
    entries = list(tune.tuned(late(here), tune.cases(False)))
    assert {entry["skipped"] for entry in entries} == {"no time left"}
    assert f"- {len(entries)} of {len(entries)} not reached" in list(tune.lines(entries))


# ---- compute-sanitizer, which is not here


@pytest.mark.parametrize(
    ("code", "said", "found"),
    [
        (0, "", "memcheck: nothing found; racecheck: nothing found"),
        (None, "", "memcheck: did not end within"),
        (
            3,
            "========= Error: device not supported\n",
            "could not run, exit code 3: ['Error: device not supported']",
        ),
    ],
)
def test_what_the_sanitizer_says(
    code: int | None, said: str, found: str, here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = Setting(torch.device("cuda", 0), here.clock, here.until, here.out)

    def run(command: list[str], seconds: float, *, stdout: object, env: dict[str, str]) -> int | None:
        assert command[0] == "/bin/compute-sanitizer" and env == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        stdout.write(said)  # type: ignore[attr-defined]
        return code

    monkeypatch.setattr(sanitize.shutil, "which", lambda name: "/bin/compute-sanitizer")
    monkeypatch.setattr(sanitize, "run_limited", run)
    assert found in sanitize.sanitize(on_gpu)


def test_what_the_sanitizer_finds_is_an_error(here: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = Setting(torch.device("cuda", 0), here.clock, here.until, here.out)
    monkeypatch.setattr(sanitize.shutil, "which", lambda name: "/bin/compute-sanitizer")

    def run(command: list[str], seconds: float, *, stdout: object, env: dict[str, str]) -> int:
        stdout.write("noise\n========= Invalid __global__ read of size 2 bytes\n")  # type: ignore[attr-defined]
        return sanitize.FOUND_SOMETHING

    monkeypatch.setattr(sanitize, "run_limited", run)
    with pytest.raises(RuntimeError, match="memcheck: Invalid __global__ read"):
        sanitize.sanitize(on_gpu)
    monkeypatch.setattr(sanitize.shutil, "which", lambda name: None)
    monkeypatch.setattr(sanitize, "Path", lambda path: Path("/nowhere"))
    assert sanitize.sanitize(on_gpu) == "compute-sanitizer is not on PATH"
    assert sanitize.sanitize(here) == "there is no GPU to watch"
