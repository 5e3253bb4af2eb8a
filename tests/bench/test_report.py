"""The report page: exact numbers, escaped text, nothing loaded, written in one step."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_results import sample_result

from sparsekern.bench import atomic, report


class Page(HTMLParser):
    """Every tag with its attributes, and the text of each table cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.in_cell = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.cells[-1] += data.replace("\n", "")


@pytest.fixture(scope="module")
def text() -> str:
    return report.render(sample_result())


def test_the_tables_hold_the_numbers(text: str) -> None:
    result, cells = sample_result(), Page(text).cells
    for entry in result["structures"]:
        for round_ in entry["rounds"]:
            assert f"{100 * round_['accuracy']:.2f}" in cells
            assert f"{100 * round_['accuracy_reinit']:.2f}" in cells
            assert f"{round_['time_sparse_us']:,.1f}" in cells
            assert f"{round_['time_best_dense_us']:,.1f} onednn" in cells
            ratio = round_["speedup_vs_best_dense"]
            assert f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})" in cells
        assert {layer["reason"] for layer in entry["layers"]} <= set(cells)
    assert result["verdict"] in text
    assert "AMD EPYC 9B45" in text and "L1d 48, L2 1024" in text


def test_the_page_loads_nothing(text: str) -> None:
    tags = Page(text).tags
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"url\((?!#)|@import", text)


def test_ids_are_unique(text: str) -> None:
    ids = [attributes["id"] for _, attributes in Page(text).tags if "id" in attributes]
    shapes = {name for name in ids if ids.count(name) > 1}
    # A marker or clip path of the same name in two figures is the same shape: names are hashes.
    for name in shapes:
        bodies = re.findall(rf'<(\w+) id="{name}"(.*?)/?>', text, re.S)
        assert len(set(bodies)) == 1


def test_figures_take_their_colours_from_the_page(text: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(figures) == 4
    for figure in figures:
        assert set(re.findall(r"#[0-9a-f]{6}", figure)) == set()
        assert "var(--sparse)" in figure
    assert "prefers-color-scheme: dark" in text


def test_names_are_escaped() -> None:
    result = sample_result()
    result["structures"][0]["layers"][0]["layer"] = "<script>alert(1)</script>"
    result["command"] = "sparsekern run --out '<b>'"
    text = report.render(result)
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>" not in text


def test_a_missing_number_is_a_dash() -> None:
    result = sample_result()
    for round_ in result["structures"][0]["rounds"]:
        del round_["accuracy_reinit"]
    cells = Page(report.render(result)).cells
    # 13 reinit cells; sparsity, block, kernel, dense and sparse time of the kept layer, in both structures.
    assert cells.count("\N{EN DASH}") == 13 + 2 * 5


def test_not_matched_is_said() -> None:
    result = sample_result()
    assert ">not matched<" not in report.render(result)
    result["matched"] = False
    result["difference_points"] = {"value": -2.4, "low": -3.5, "high": -1.25}
    text = report.render(result)
    assert ">not matched<" in text and "-2.40 (-3.50 to -1.25)" in text


def test_write_report_writes_both_files_and_nothing_else(tmp_path: Path) -> None:
    page = report.write_report(sample_result(), tmp_path / "new" / "folder")
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert json.loads((page.parent / "report.json").read_text("utf-8")) == sample_result()
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]


def test_nan_is_refused_and_the_old_report_stays(tmp_path: Path) -> None:
    report.write_report(sample_result(), tmp_path)
    broken = copy.deepcopy(sample_result())
    broken["structures"][1]["rounds"][3]["time_sparse_us"] = float("nan")
    with pytest.raises(ValueError, match=re.escape("structures[1].rounds[3].time_sparse_us = nan")):
        report.write_report(broken, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == sample_result()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")

    def broken_replace(source: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(atomic.os, "replace", broken_replace)
    with pytest.raises(OSError, match="no space left"):
        atomic.write_atomically(target, b"new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_names_that_are_no_utf_8_break_neither_file(tmp_path: Path) -> None:
    result = {**sample_result(), "command": "sparsekern run --out o\udcff"}
    page = report.write_report(result, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["command"] == result["command"]
    assert "--out o\\udcff" in page.read_text("utf-8")


def test_a_winner_that_missed_on_validation_is_said() -> None:
    result = sample_result()
    assert "No round matches" not in report.render(result)
    result["structures"][1]["winner"]["matched_on_validation"] = False
    assert report.render(result).count("No round matches the dense network on validation data") == 1


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == "jinja2" else object())
    with pytest.raises(ImportError, match=re.escape('needs jinja2: pip install "sparsekern[report]"')):
        report.require_report_extra()
