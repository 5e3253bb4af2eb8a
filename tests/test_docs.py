"""The pages of the site: their Python runs, their figures are measured ones, the site builds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision_operators

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RUN_HERE = ("index.md", "faster.md", "blocks.md", "files.md")


def python_of(page: str) -> list[str]:
    text = (DOCS / page).read_text("utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", RUN_HERE)
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # they save files
    scope: dict[str, object] = {}
    blocks = [block for block in python_of(page) if "transformers" not in block]
    assert blocks
    for block in blocks:
        exec(block, scope)


@pytest.mark.slow  # transformers takes seconds to import
def test_the_python_with_transformers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision_operators.declare()
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in python_of("files.md") if "transformers" in block)
    exec("import sparsekern as sk\n" + block, {})


def figures(page: str) -> dict[tuple[str, ...], str]:
    """Of each row of a table about layers, the speed-up against the best dense by layer, zeros and block."""
    found = {}
    for line in (DOCS / page).read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        ratios = [cell.split()[0] for cell in cells[3:] if re.match(r"\d+\.\d+x", cell)]
        if re.match(r"\d+ x \d+ x \d+", cells[0]) and ratios:
            found[tuple(cells[:3])] = ratios[0]
    return found


def test_the_figures_of_the_honest_table_are_measured_ones() -> None:
    shown, measured = figures("faster.md"), figures("measured.md")
    assert len(shown) >= 10 and shown.items() <= measured.items()


def test_every_page_is_in_the_site() -> None:
    nav = set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), flags=re.MULTILINE))
    assert nav == {page.name for page in DOCS.glob("*.md")}


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sparsekern.swap_" in (tmp_path / "api" / "index.html").read_text("utf-8")
