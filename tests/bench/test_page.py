"""The pages in a real browser: they sort, filter and plot what their JSON says, in any light and width."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bench_results import records
from browser import Page, browser
from run_results import sample_result

from sparsekern.bench.export import export
from sparsekern.bench.export.rows import Row, rows
from sparsekern.bench.report import write_report

DESKTOP, PHONE = 1280, 375
BODY = """[...document.querySelectorAll("#table tbody tr")].map(
  (row) => [...row.cells].map((cell) => cell.textContent))"""
HEADS = "[...document.querySelectorAll('#table thead th')].map((head) => head.dataset.key)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "page.html"
    export(records(), "html", made)
    return made


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(sample_result(), tmp_path_factory.mktemp("report"))


def column(page: Page, key: str) -> list[str]:
    place = page.run(HEADS).index(key)
    return [cells[place] for cells in page.run(BODY)]


def choose(page: Page, select: str, set_it: str) -> None:
    """A native list opens outside of the page, where no script reaches; the page sees the change."""
    element = f"document.getElementById('{select}')"
    page.run(f"((s) => {{ {set_it}; s.dispatchEvent(new Event('change')) }})({element})")


def sort_of(page: Page, key: str) -> str:
    return str(page.run(f"document.querySelector('[data-key={json.dumps(key)}]').ariaSort"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_it_sorts_and_filters(page: Page, path: Path, width: int, scheme: str) -> None:
    page.open(path, width, scheme=scheme)
    assert page.run("[document.documentElement.scrollWidth <= innerWidth, innerWidth]") == [True, width]
    assert len(page.run(BODY)) == 12 and sort_of(page, "best") == "none"
    known = [row.against_best_dense.value for row in rows(records()) if row.against_best_dense is not None]
    for direction, expected in (("ascending", sorted(known)), ("descending", sorted(known, reverse=True))):
        page.click("[data-key=best] button")
        assert sort_of(page, "best") == direction and sort_of(page, "kernel") == "none"
        assert [text.split("x")[0] for text in column(page, "best")] == [f"{value:.2f}" for value in expected]
    page.click("#contains")
    page.type("M 16,")
    assert page.run("document.getElementById('count').textContent") == "6 of 12 problems"
    assert set(column(page, "sizes")) == {"m 16, n 768, k 768"}
    choose(page, "block", "s.value = '16x1'")
    assert set(column(page, "block")) == {"16x1"} and len(page.run(BODY)) == 3
    assert page.run("document.getElementById('product').options.length") == 1
    assert "bsr_linear refuses: takes | <b>whole</b> blocks (3 of 3)" in page.run("document.body.innerText")
    assert page.problems == []


def test_columns_without_a_number_are_not_shown(page: Page, tmp_path: Path) -> None:
    network = {"op": "network", "network": "small", "batch": 1, "sparsity": 0.9, "threads": 1}
    others = [
        replace(record, problem=network, provider=name)
        for record, name in zip(records(), ("torch", "fused", "swapped"), strict=False)
    ]
    export([*records(), *others], "html", tmp_path / "both.html")
    page.open(tmp_path / "both.html", DESKTOP)
    assert {"op", "time fused", "time onednn"} <= set(page.run(HEADS))
    page.click("[data-key='time torch'] button")
    choose(page, "op", "s.value = 'network'")
    assert [head for head in page.run(HEADS) if head.startswith("time")] == [
        "time torch",
        "time fused",
        "time swapped",
    ]
    assert sort_of(page, "time torch") == "ascending" and len(page.run(BODY)) == 1 and page.problems == []


PLOT = """[...document.querySelectorAll("[data-plot]")].map((plot) => ({
  key: plot.dataset.plot,
  ticks: [...plot.querySelectorAll("line.grid")].map((line) => [+line.dataset.value, line.y1.baseVal.value]),
  points: [...plot.querySelectorAll("g .point[data-value]")].map((point) => {
    const { e, f } = point.transform.baseVal.consolidate().matrix;
    const colour = getComputedStyle(point).fill;
    return { ...point.dataset, x: e, y: f, colour, shape: point.getAttribute("d") };
  }),
  whiskers: [...plot.querySelectorAll(".whisker")].map(({ y1, y2 }) => [y1.baseVal.value, y2.baseVal.value]),
  text: plot.querySelector(".numbers").innerText,
}))"""


def value_of(plot: str, row: Row) -> tuple[float, float, float]:
    found = {"best": row.against_best_dense, "eager": row.against_eager}.get(plot)
    if found is not None:
        return found.value, found.low, found.high
    assert plot == "share" and row.share is not None
    return row.share, row.share, row.share


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_its_points_are_where_the_numbers_say(page: Page, path: Path, width: int, scheme: str) -> None:
    page.open(path, width, scheme=scheme)
    choose(page, "product", "s.selectedIndex = 1")
    wanted = {
        ("x".join(map(str, row.problem["block"])), str(row.problem["sparsity"])): row  # type: ignore[call-overload]
        for row in rows(records())
        if row.problem["m"] == 16
    }
    plots = page.run(PLOT)
    assert [plot["key"] for plot in plots] == ["best", "eager", "share"]
    for plot in plots:
        (low, at_low), (high, at_high) = plot["ticks"][0], plot["ticks"][-1]
        pixel = lambda value, l=low, h=high, a=at_low, b=at_high: a + (value - l) / (h - l) * (b - a)  # noqa: E731, E741
        assert len(plot["points"]) == len(wanted) == 6
        for point, whisker in zip(plot["points"], plot["whiskers"], strict=True):
            value, least, most = value_of(plot["key"], wanted[point["block"], point["sparsity"]])
            assert float(point["value"]) == value
            assert [point["y"], *whisker] == pytest.approx(
                [pixel(value), pixel(least), pixel(most)], abs=0.01
            )
            number = f"{100 * value:.1f} %" if plot["key"] == "share" else f"{value:.2f}x"
            assert number in plot["text"]
        places = {point["sparsity"]: point["x"] for point in plot["points"]}
        assert places["0.8"] < places["0.9"] < places["0.95"]
        # Who sees no colours tells the blocks by their markers.
        assert len({(p["block"], p["colour"], p["shape"]) for p in plot["points"]}) == 2
        assert len({p["colour"] for p in plot["points"]}) == len({p["shape"] for p in plot["points"]}) == 2
    page.click("[data-plot=best] .hit")
    assert "x (" in page.run("document.getElementById('tip').textContent")
    assert page.run("document.getElementById('tip').hidden") is False
    assert page.problems == []


def test_the_keyboard_reaches_everything(page: Page, path: Path) -> None:
    page.open(path, DESKTOP)
    reached = []
    for _ in range(40):
        page.press("Tab", 9)
        reached.append(
            page.run(
                "(e => e.id || e.closest('th')?.dataset.key || e.ariaLabel || '')(document.activeElement)"
            )
        )
        if reached[-1] == "best" and "best" not in reached[:-1]:
            page.press("Enter", 13)
    assert reached[:5] == [
        "block",
        "sparsity",
        "contains",
        "product",
        "Speed-up over the best dense: the numbers",
    ]
    heads = page.run(HEADS)
    start = reached.index(heads[0])
    assert reached[start : start + len(heads)] == heads and sort_of(page, "best") == "ascending"
    labelled = page.run("[...document.querySelectorAll('select, input')].every((e) => e.labels.length === 1)")
    assert labelled is True and page.problems == []


def test_text_from_outside_stays_text(page: Page, tmp_path: Path) -> None:
    odd = "</script><script>document.title = 'caught'</script><img src=x onerror=alert(1)>"
    found = records()
    found = [replace(record, problem={**record.problem, "layer": odd}) for record in found]
    export(found, "html", tmp_path / "odd.html")
    page.open(tmp_path / "odd.html", DESKTOP)
    assert page.run("document.title") == "sparsekern bench" and page.run("document.images.length") == 0
    assert odd in column(page, "sizes")[0] and page.problems == []


def test_what_has_no_sparsity_has_no_plot(page: Page, tmp_path: Path) -> None:
    found = records()
    found = [replace(record, problem={"op": "network", "batch": record.problem["m"]}) for record in found[:4]]
    export(found, "html", tmp_path / "bare.html")
    page.open(tmp_path / "bare.html", PHONE)
    assert "Nothing to plot" in page.run("document.getElementById('plots').innerText")
    assert page.run(BODY) and page.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_report_of_a_run_fits(page: Page, report: Path, width: int, scheme: str) -> None:
    page.open(report, width, scheme=scheme)
    assert page.run("document.documentElement.scrollWidth <= innerWidth") is True
    assert page.run("document.querySelectorAll('figure svg').length") == 4
    inks = page.run(
        "[...document.querySelectorAll('body, figure text')].map((e) => getComputedStyle(e).color)"
    )
    assert len(inks) > 10 and page.problems == []
