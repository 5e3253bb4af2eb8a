"""`sparsekern bench linear`: its options, what it prints and writes, and what it refuses to time."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from bench_results import result
from torch import Tensor

from sparsekern import cli
from sparsekern.bench import interleave
from sparsekern.cli import main
from sparsekern.cli.bench import limit, linear, measure, rivals
from sparsekern.cli.bench.cases_linear import LinearCase, cases
from sparsekern.cli.bench.measure import Setting
from sparsekern.cli.bench.presets import PRESETS
from sparsekern.cli.bench.table import break_even, break_evens, notes, row

TINY = ["bench", "linear", "--shape", "24x32", "--batch", "1", "5", "--budget", "0.001"]
BOTH = ["--block", "1x1", "16x1", "--sparsity", "0.5", "0.9"]


@pytest.fixture(autouse=True)
def known_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "_read_gbs", lambda nbytes: 20.0)


def chosen(*arguments: str) -> list[str]:
    return [str(case) for case in linear._cases(cli._parser().parse_args(["bench", "linear", *arguments]))]


def test_options_replace_what_the_preset_says() -> None:
    assert chosen("--shape", "10x20", "--batch", "3", "--sparsity", "0.5", "--block", "2x1", "1x1") == [
        "m3-n10-k20-50%-2x1-float32",
        "m3-n10-k20-50%-1x1-float32",
    ]
    assert len(chosen()) == 2 * 3 * 3
    assert set(chosen("--dtype", "float16")) == {name.replace("32", "16") for name in chosen()}
    assert all("-16x2-" in name for name in chosen("--preset", "goals", "--block", "16x2"))
    ends = {name.rpartition("%-")[2] for name in chosen("--preset", "goals", "--block", "1x1", "32x4")}
    assert {"1x1-float32", "1x1-bfloat16", "32x4-int8"} < ends and "1x1-int8" not in ends


def test_the_presets_hold_what_they_promise() -> None:
    goals = chosen("--preset", "goals")
    assert len(goals) == len(set(goals)) == 15
    assert {
        "m128-n768-k768-95%-1x1-float32",
        "m1024-n768-k768-90%-1x1-float32",
        "m1-n4096-k4096-80%-1x1-float32",
        "m1-n4096-k4096-90%-16x1-float32",
        "m128-n768-k768-90%-32x1-float32",
        "m128-n768-k768-90%-16x2-bfloat16",
        "m128-n768-k768-90%-16x4-int8",
    } <= set(goals)
    assert len(chosen("--preset", "full")) == 5 * 5 * 15 * 6
    assert all(preset.grids for name, preset in PRESETS.items() if name != "dlmc")
    with pytest.raises(ValueError, match="block 16x1 does not fit into a weight of 12x768"):
        cases(PRESETS["quick"], {"shapes": ((12, 768),)})


def test_a_run_prints_a_table_and_writes_a_line_for_each_rival(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.jsonl"
    assert main([*TINY, *BOTH, "--json", str(path)]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert said.err == "" and re.match(r".+, \w+, 1 thread\(s\), FMA peak \d+ GFLOP/s$", lines[0])
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    head, rows = table[0], table[2:]
    assert head[:3] == ["m x n x k", "sparsity", "block"] and head[-2:] == ["of the limit", "kernel"]
    assert [cells[:2] for cells in rows[:2]] == [["1 x 24 x 32", "50 %"], ["1 x 24 x 32", "90 %"]]
    assert len(rows) == 8 and all(len(cells) == len(head) for cells in rows)
    assert all(re.match(r"\d+\.\d\dx \(\d+\.\d\d to ", cells[-3]) for cells in rows)
    assert {cells[-1] for cells in rows} <= {record["kernel"] for record in records(path, "sparsekern")}
    assert sum(line.startswith("- 24x32, ") for line in lines) == 4  # break-even points
    names = [name.removesuffix(" us") for name in head if name.endswith(" us")]
    assert {record["provider"] for record in records(path)} == set(names)
    assert len(records(path)) == 8 * len(names)


def records(path: Path, provider: str | None = None) -> list[dict[str, object]]:
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [record for record in found if provider in (None, record["provider"])]


def test_a_record_says_what_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.jsonl"
    arguments = ["--sparsity", "0.5", "--block", "1x1", "--threads", "2", "--json", str(path)]
    assert main([*TINY, *arguments]) == 0
    assert "2 thread(s)" in capsys.readouterr().out and torch.get_num_threads() == 1
    record = records(path, "sparsekern")[1]
    sizes = {"m": 5, "n": 24, "k": 32, "sparsity": 0.5, "block": [1, 1], "dtype": "float32"}
    assert record["problem"] == {"op": "linear", "threads": 2, **sizes}
    assert record["flops"] == 2 * 5 * 384 and record["bytes"] == 6 * 384 + 4 * 5 * (24 + 32)
    assert record["limit_us"] > 0 and record["median_us"] > 0 and record["kernel"]  # type: ignore[operator]
    assert 0 < record["error"] < 1e-4 and set(record["speedup"]) == {"value", "low", "high"}  # type: ignore
    assert "kernel" not in records(path, "torch")[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_are_timed_and_refusals_said(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--sparsity", "0.9", "--block", "16x2", "--dtype", dtype]) == 0
    said = capsys.readouterr().out
    assert f"| 5 x 24 x 32 {dtype} | 90 % | 16x2 |" in said
    assert "- bsr_linear refuses: takes whole blocks, not (16, 2) in (24, 32) (2 of 2 cases)" in said


def test_who_is_wrong_is_not_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plant(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> rivals.Call:
        return lambda x: torch.nn.functional.linear(x, weight, bias) + (torch.arange(24) == 7) * 1e-2

    def spy(calls: Mapping[str, object], **options: float) -> object:
        timed.extend(calls)
        return interleave(calls, **options)  # type: ignore[arg-type]

    timed: list[str] = []
    monkeypatch.setattr(measure, "interleave", spy)
    monkeypatch.setitem(rivals.RIVALS, "csr_linear", plant)
    path = tmp_path / "out.jsonl"
    assert main([*TINY, "--sparsity", "0.9", "--block", "1x1", "--json", str(path)]) == 0
    assert "csr_linear" not in timed and "csr_matmul" in timed
    said = capsys.readouterr().out
    assert "| refuses |" in said and "- csr_linear refuses: wrong by 1.0e-02, expected at most " in said
    record = records(path, "csr_linear")[0]
    assert str(record["refusal"]).startswith("wrong by 1.0e-02") and "median_us" not in record


def test_a_wrong_sparsekern_ends_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plant(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> rivals.Call:
        return lambda x: torch.zeros(x.shape[0], weight.shape[0])

    monkeypatch.setitem(rivals.RIVALS, "sparsekern", plant)
    assert main([*TINY, "--sparsity", "0.9", "--block", "1x1"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("sparsekern: sparsekern on m1-n24-k32-90%-1x1-float32: wrong by ")
    assert line.count("\n") == 1


def test_a_rival_that_is_not_here_is_a_line_and_no_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rivals.NEEDS, "onnxruntime", ("no_such_package",))
    assert main([*TINY, "--sparsity", "0.9", "--block", "1x1"]) == 0
    said = capsys.readouterr().out
    assert "| onnxruntime us |" not in said and said.count("- onnxruntime: not installed") == 1


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.8, 0.5), (0.9, 1.5)], "85.0 %"),
        ([(0.9, 3.0), (0.5, 0.2), (0.7, 0.8), (0.8, 1.2)], "75.0 %"),  # in any order
        ([(0.5, 0.8), (0.6, 1.2), (0.7, 0.9), (0.8, 1.9)], "71.0 %"),  # from there on it stays faster
        ([(0.8, 1.1), (0.9, 1.5)], "below 80 %"),
        ([(0.8, 1.0), (0.9, 1.5)], "below 80 %"),
        ([(0.8, 0.1), (0.95, 0.9)], "above 95 %"),
        ([(0.8, 0.9), (0.9, 1.0)], "90.0 %"),
    ],
)
def test_break_even_is_interpolated(points: list[tuple[float, float]], expected: str) -> None:
    assert break_even(points) == expected


def test_break_evens_are_of_one_shape_block_and_batch() -> None:
    slow, fast = {"torch": 10.0, "onednn": 5.0, "sparsekern": 10.0}, {"torch": 9.0, "sparsekern": 6.0}
    found = [
        result(LinearCase(1, 8, 8, 0.5, (1, 1)), **slow),
        result(LinearCase(2, 8, 8, 0.5, (1, 1)), **slow),
        result(LinearCase(1, 8, 8, 0.9, (1, 1)), **fast),
        result(LinearCase(1, 8, 8, 0.9, (8, 1)), **fast),
        result(LinearCase(1, 8, 8, 0.95, (8, 1)), sparsekern=1.0),  # no dense rival: no point
    ]
    assert list(break_evens(found)) == ["8x8, 1x1, batch 1, float32: 70.0 %"]


def test_a_row_has_no_number_where_none_is_known() -> None:
    case = LinearCase(3, 8, 16, 0.875, (8, 1), "bfloat16")
    text = row(result(case, {"torch": "it is tired"}, onednn=8.0, sparsekern=4.0), ["torch", "onednn"], "fc")
    assert text.startswith("| fc 3 x 8 x 16 bfloat16 | 87.5 % | 8x1 | refuses | 8.0 | n/a | 2.00x (2.00 to ")
    assert text.endswith(" | 25 % | fast_kernel |")
    assert "| n/a | n/a |" in row(result(case, sparsekern=4.0), [])


def test_notes_count_refusals_once() -> None:
    case = LinearCase(1, 8, 8, 0.5, (1, 1))
    found = [result(case, {"bsr_linear": why}, sparsekern=1.0) for why in ("tired", "tired", "ill")]
    lines = list(notes(found, Setting(["bsr_linear"], 1.0, 1, 1.0)))
    assert "bsr_linear refuses: tired (2 of 3 cases)" in lines and len(set(lines)) == len(lines)


def test_the_limit_is_the_slower_of_peak_and_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.zeros(10, 6)
    weight[8, 1] = weight[0, 5] = 1.0  # of blocks of 4, ragged: one of 2 weights, one of 4
    small = limit.limit(LinearCase(1, 10, 6, 0.8, (4, 1)), weight, peak_gflops=100.0, threads=1)
    assert (small.flops, small.nbytes) == (2 * 6, 4 * (6 + 16) + 2 * 2)
    assert small.time_us == pytest.approx(small.nbytes / 20e3)
    large = limit.limit(LinearCase(1000, 10, 6, 0.8, (4, 1)), weight, peak_gflops=0.1, threads=1)
    assert large.time_us == pytest.approx(1000 * 12 / 0.1e3)
    for features, times in (((), 1), (("avx512_bf16",), 2), (("amx_bf16", "avx512_bf16"), 16)):
        monkeypatch.setattr(limit.cpu, "features", lambda features=features: features)
        pairs = limit.limit(LinearCase(1000, 10, 6, 0.8, (4, 2), "bfloat16"), weight.bfloat16(), 1e-3, 2)
        assert pairs.flops == 2000 * (4 + 8) and pairs.time_us == pytest.approx(pairs.flops / times / 2)
    quads = limit.limit(LinearCase(1, 10, 6, 0.8, (4, 4), "int8"), weight, 100.0, 1)
    assert quads.nbytes == (8 + 8) + 4 * (6 + 10) + 2 * 2
