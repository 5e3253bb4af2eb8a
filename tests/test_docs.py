"""The pages of the site: their Python runs, their figures are measured ones, the site builds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision_operators

import sparsekern as sk

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
HEAVY = ("transformers", "torchvision")
SMALL_ONNX = """
model, x = torch.nn.Sequential(torch.nn.Linear(16, 16)).eval(), torch.randn(2, 16)
sk.prune.prune_(model, 0.9)
sk.swap_(model, threshold=0.5)
"""
SMALL_GPT2 = """
from transformers import GPT2Config, GPT2Model
model = GPT2Model(GPT2Config(vocab_size=99, n_embd=64, n_layer=2, n_head=4))
"""
SMALL_RESNET = """
from torchvision.models.resnet import BasicBlock, ResNet
resnet, images = ResNet(BasicBlock, [1, 1, 1, 1]).eval(), torch.randn(1, 3, 64, 64)
sk.prune.prune_(resnet, 0.95)
"""
BEFORE = {("export.md", 0): SMALL_ONNX, ("networks.md", 1): SMALL_GPT2, ("networks.md", 2): SMALL_RESNET}
"""What a page takes as given before one of its snippets."""


def python_of(page: str) -> list[str]:
    text = (DOCS / page).read_text("utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def blocks_of(page: str, heavy: bool) -> list[str]:
    """Those that need a package that takes seconds to import, or the others; each after its own beginning."""
    whole = [BEFORE.get((page, index), "") + block for index, block in enumerate(python_of(page))]
    return [block for block in whole if any(package in block for package in HEAVY) is heavy]


def run(page: str, heavy: bool) -> dict[str, Any]:
    scope: dict[str, Any] = {"torch": torch, "sk": sk}
    for block in blocks_of(page, heavy):
        exec(block, scope)
    return scope


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, heavy=False)])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # they save files
    if page == "export.md":
        pytest.importorskip("onnxscript")
    run(page, heavy=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, heavy=True)])
def test_the_python_with_other_packages_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision_operators.declare()
    for package in HEAVY:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    scope = run(page, heavy=True)
    if page == "networks.md":
        assert not any(type(module).__name__ == "Conv1D" for module in scope["model"].modules())
        assert isinstance(scope["graph"], torch.fx.GraphModule)


def test_no_python_of_the_docs_is_left_out() -> None:
    fences = sum((DOCS / page).read_text("utf-8").count("```python") for page in PAGES)
    assert fences == sum(len(blocks_of(page, heavy)) for page in PAGES for heavy in (False, True)) >= 10


def shown(text: str) -> set[str]:
    """The functions and classes of ours that a text names, by where they are: ``sk.masks.unmask_``."""
    found = set()
    for path in re.findall(r"\b(?:sk|sparsekern)\.(\w+(?:\.\w+)*)", text):
        thing: Any = sk
        for name in path.split("."):
            thing = getattr(thing, name, None)
        if callable(thing):
            found.add(path)
    return found


@pytest.mark.parametrize("page", ["../README.md", *(page for page in PAGES if page != "api.md")])
def test_the_api_has_what_a_page_names(page: str) -> None:
    listed = shown((DOCS / "api.md").read_text("utf-8"))
    assert len(listed) > 10 and shown((DOCS / page).read_text("utf-8")) - listed == set()


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
