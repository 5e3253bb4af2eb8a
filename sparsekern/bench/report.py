"""The report of a run: one plain dict becomes report.json and a self-contained report.html."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparsekern.bench.atomic import write_atomically
from sparsekern.bench.record import strict_json

Result = Mapping[str, Any]
_MISSING = "\N{EN DASH}"  # what a table shows where the dict has no key


def require_report_extra() -> None:
    """ImportError naming the extra to install when a library that draws the page is missing."""
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ImportError(f'the report needs {" and ".join(missing)}: pip install "sparsekern[report]"')


def write_report(result: Result, folder: Path) -> Path:
    """Write `report.json` and `report.html` into `folder` (made if need be); returns the page's path.

    Each file is written beside its place and moved there, so a killed run leaves the old file or the new one.
    ValueError for a NaN or infinity anywhere in `result`, ImportError without jinja2 or matplotlib. The
    numbers are written before the page is drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.json", _encoded(strict_json(result, indent=2) + "\n"))
    page = folder / "report.html"
    write_atomically(page, _encoded(render(result)))
    return page


def render(result: Result) -> str:
    """The page as HTML text: no scripts, nothing loaded from anywhere, every string escaped."""
    require_report_extra()
    import jinja2

    from sparsekern.bench.plots import accuracy_svg, time_svg

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=_percent, us=_us, points=_points, plain=_plain)
    source = resources.files("sparsekern.bench").joinpath("templates/report.html.j2").read_text("utf-8")
    figures = [
        {
            "accuracy": accuracy_svg(entry["rounds"], entry["winner"]["round"], result["accuracy_dense"]),
            "time": time_svg(entry["rounds"], entry["winner"]["round"]),
        }
        for entry in result["structures"]
    ]
    return environment.from_string(source).render(result=result, figures=figures)


def _encoded(text: str) -> bytes:
    # A name that is no UTF-8 reaches Python with lone surrogates. Backslashed, they are JSON's own escapes.
    return text.encode("utf-8", "backslashreplace")


def _percent(share: float | None) -> str:
    return _MISSING if share is None else f"{100 * share:.2f}"


def _us(time_us: float | None) -> str:
    return _MISSING if time_us is None else f"{time_us:,.1f}"


def _points(difference: Mapping[str, float] | None) -> str:
    if difference is None:
        return _MISSING
    return f"{difference['value']:+.2f} ({difference['low']:+.2f} to {difference['high']:+.2f})"


def _plain(value: object) -> str:
    """A value of the machine or config table in words: lists and dicts flat, numbers short."""
    if value is None:
        return _MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
