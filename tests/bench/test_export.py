"""What becomes of the lines of a benchmark: each export says the same, and the tools it is for read it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import quantiles

import pytest
from bench_results import records, write

from sparsekern.bench.export import EXPORTS, export
from sparsekern.bench.export.rows import rows
from sparsekern.bench.record import read
from sparsekern.cli import main


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    found = records()
    assert [record.to_json() for record in read(write(tmp_path / "r", found))] == [
        json.loads(json.dumps(record.to_json())) for record in found
    ]


LINE = json.dumps(records()[0].to_json())


def changed(old: str, new: str) -> str:
    return LINE.replace(old, new, 1) + "\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected at least one record, got an empty file"),
        ('{"a": 1}\n', "line 1: expected a record of sparsekern, got"),
        ("[]\n", "line 1: expected a record of sparsekern, got '[]'"),
        (f"{LINE}\nnot json\n", "line 2: expected a record of sparsekern in JSON"),
        (f"{LINE}\n{LINE[:50]}", "line 2: is cut off"),
        (changed("11.0", "NaN"), "expected a record of sparsekern in JSON: "),
        (
            changed('"median_us": 11.0', '"median_us": "fast"'),
            "median_us: expected a time above 0, got 'fast'",
        ),
        (changed('"seed"', '"sead": 1, "seed"'), "sead: expected no such field, got '1'"),
        (
            f"{LINE}\n{changed('Some CPU', 'Another CPU')}",
            "line 2: expected records of one origin, got cpu Some CPU",
        ),
        (
            f"{LINE}\n{changed('0123', '4567')}",
            "expected records of one origin, got commit 0123456789abcdef and",
        ),
        ("\xff\n", "expected a record"),
    ],
)
@pytest.mark.parametrize("name", EXPORTS)
def test_a_foreign_file_is_one_line_and_nothing_is_written(
    text: str, words: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "results.jsonl", tmp_path / "out"
    path.write_text(text, "utf-8")
    out.write_text("was here")
    assert main(["export", str(path), "--to", name, "-o", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and words in said.err
    assert out.read_text() == "was here"


def test_a_file_that_is_no_text_or_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("bytes", "nowhere"):
        assert main(["export", str(tmp_path / name), "--to", "csv"]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_rows_hold_who_computed_the_same() -> None:
    found = rows([*records(), *records()[:4]])
    assert len(found) == 13  # what was timed again is a row of its own
    assert list(found[0].records) == ["torch", "onednn", "sparsekern", "bsr_linear"]
    row = found[0]
    assert row.ours is row.records["sparsekern"]
    assert row.against_eager is not None and row.against_best_dense is not None
    assert row.against_eager.value == pytest.approx(11 / row.ours.median_us)  # type: ignore[operator, union-attr]
    assert row.share == pytest.approx(0.4 * 0.8)


def test_csv_has_a_line_for_each_record() -> None:
    lines = list(csv.DictReader(io.StringIO(str(EXPORTS["csv"](records())))))
    assert len(lines) == len(records())
    assert (lines[2]["op"], lines[2]["m"], lines[2]["block"], lines[2]["provider"]) == (
        "linear",
        "1",
        "1x1",
        "sparsekern",
    )
    assert float(lines[2]["speedup"]) == records()[2].speedup["value"]  # type: ignore[index]
    assert lines[3]["refusal"] == "takes | <b>whole</b> blocks" and lines[3]["median_us"] == ""


def test_markdown_has_a_line_for_each_problem() -> None:
    text = str(EXPORTS["markdown"](records()))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 12 and "Some CPU 9000, avx2, commit 0123456789ab" in text
    assert {line.count("|") for line in table} == {table[0].count("|")}
    assert (
        "| m 1, n 768, k 768 | float32 | 1x1 | 80 % | 1 | 11.0 | 11.0 | refuses | 26.2 | 0.42x (" in table[2]
    )


def test_a_name_with_a_bar_makes_no_column() -> None:
    odd = [replace(record, problem={"op": "model", "model": "a|b<i>"}) for record in records()[:3]]
    table = [line for line in str(EXPORTS["markdown"](odd)).splitlines() if line.startswith("|")]
    assert "model a\\|b&lt;i>" in table[2] and table[2].replace("\\|", "").count("|") == table[0].count("|")


def test_pytest_benchmark_compares_two_exports(tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(records(), "pytest-benchmark", tmp_path / f"{name}.json")
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "one.json", "two.json", "--csv=out.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "sparsekern[linear, m 16, n 768, k 768, float32, 16x1, 95 %, 1 threads]" in done.stdout
    lines = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert len(lines) == 2 * 36 and float(lines[0]["median"]) * 1e6 == pytest.approx(11.0)


def test_the_statistics_are_those_of_pytest_benchmark() -> None:
    stats = pytest.importorskip("pytest_benchmark.stats").Stats()
    made = json.loads(str(EXPORTS["pytest-benchmark"](records())))["benchmarks"][0]["stats"]
    for sample in records()[0].samples_us or ():
        stats.update(sample / 1e6)
    theirs = stats.as_dict()
    assert theirs.keys() - {"q1", "q3", "iqr", "ld15iqr", "hd15iqr"} <= made.keys()
    for name in ("min", "max", "mean", "stddev", "rounds", "median", "total", "ops", "outliers"):
        assert made[name] == pytest.approx(theirs[name]) if name != "outliers" else made[name] == theirs[name]
    assert [made["q1"], made["q3"]] == pytest.approx(
        [value / 1e6 for value in quantiles(records()[0].samples_us or (), method="inclusive")[::2]]
    )


def test_github_action_benchmark_gets_a_list_in_which_smaller_is_better() -> None:
    made = json.loads(str(EXPORTS["gha"](records())))
    assert len(made) == 36 and set(made[0]) == {"name", "unit", "value", "range", "extra"}
    assert (made[0]["unit"], made[0]["value"]) == ("us", 11.0) and made[0]["range"].startswith("± ")
    assert len({entry["name"] for entry in made}) == 36


def test_asv_gets_a_results_folder(tmp_path: Path) -> None:
    export(records(), "asv", tmp_path / "results")
    made = json.loads((tmp_path / "results/some-cpu-9000/01234567-existing-py3.11.7.json").read_text())
    medians = made["results"]["linear.time_sparsekern"][0]
    assert len(medians) == 12 and medians[0] == pytest.approx(records()[2].median_us / 1e6)  # type: ignore[operator]
    assert set(made["results"]) == {"linear.time_torch", "linear.time_onednn", "linear.time_sparsekern"}
    benchmarks = json.loads((tmp_path / "results/benchmarks.json").read_text())
    assert benchmarks["linear.time_torch"]["params"] == made["results"]["linear.time_torch"][1]


def test_asv_reads_it(tmp_path: Path) -> None:
    results = pytest.importorskip(
        "asv.results", reason="asv is not on this machine: it reads the export there"
    )
    export(records(), "asv", tmp_path)
    loaded = results.Results.load(str(tmp_path / "some-cpu-9000/01234567-existing-py3.11.7.json"))
    assert loaded.commit_hash == "0123456789abcdef"
    params = json.loads((tmp_path / "benchmarks.json").read_text())["linear.time_torch"]["params"]
    assert loaded.get_result_value("linear.time_torch", params)[0] == pytest.approx(11e-6)
    assert loaded.get_result_samples("linear.time_torch", params)[0] is not None


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("asv", {"commit": None}, "expected records of a git checkout"),
        ("asv", {"time": None}, "expected records with the time of day they were made"),
        ("pytest-benchmark", {"time": None}, "expected records with the time of day they were made"),
        ("pytest-benchmark", {"samples_us": None}, "expected samples_us, older versions wrote none"),
    ],
)
def test_what_an_export_lacks_is_said(name: str, change: dict[str, None], words: str, tmp_path: Path) -> None:
    old = [replace(record, **change) for record in records()]
    with pytest.raises(ValueError, match=words):
        export(old, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_is_printed_and_a_folder_asks_for_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path / "r.jsonl", records()))
    assert main(["export", path, "--to", "markdown"]) == 0
    assert capsys.readouterr().out.rstrip() == str(EXPORTS["markdown"](records())).rstrip()
    assert main(["export", path, "--to", "asv"]) == 2
    assert "makes a folder, expected --out with its name" in capsys.readouterr().err


BENCH = ["bench", "linear", "--shape", "24x32", "--batch", "5", "--block", "1x1", "--sparsity", "0.5", "0.9"]


def test_a_benchmark_writes_every_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsekern.cli.bench import limit

    monkeypatch.setattr(limit, "_read_gbs", lambda nbytes: 20.0)
    monkeypatch.chdir(tmp_path)
    outputs = [text for name in EXPORTS for text in (f"--{name}", f"out-{name}")]
    assert main([*BENCH, "--budget", "0.001", "--json", "r.jsonl", *outputs]) == 0
    capsys.readouterr()
    kept = read(Path("r.jsonl"))
    for name in EXPORTS:
        place = Path(f"out-{name}", "benchmarks.json") if name == "asv" else Path(f"out-{name}")
        made = EXPORTS[name](kept)
        assert place.read_text("utf-8") == (made if isinstance(made, str) else made["benchmarks.json"])
    assert main([*BENCH, "--html", "nowhere/page.html"]) == 2
    assert "--html nowhere/page.html: expected a folder nowhere, there is none" in capsys.readouterr().err
