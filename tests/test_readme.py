"""What the README and the docs show is run: its Python, its commands, its links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from sparsekern.cli import _parser, main
from sparsekern.nn import SwapReport
from sparsekern.tickets import Ticket

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


# What makes a bench small, and what it then shows.
BENCHES = {
    "linear": ("--shape 24x32 --batch 5", "| 5 x 24 x 32 |"),
    "conv2d": ("--channels 6x8 --map 5 --batch 1", "| 1 x 6 x 5 x 5, 3x3 to 8 |"),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """The arguments of every line of the README's shell blocks that runs `program`."""
    lines = [shlex.split(line, comments=True) for text in blocks("sh") for line in text.splitlines()]
    return [line[1:] for line in lines if line[:1] == [program]]


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it saves a file
    first, second = blocks("python")
    scope: dict[str, object] = {}
    exec(first, scope)
    report, x, y = scope["report"], scope["x"], scope["y"]
    assert isinstance(report, SwapReport) and isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)
    assert [layer.sparsity for layer in report.layers] == pytest.approx([0.9, 0.9], abs=0.01)
    assert str(scope["model"]).count("SparseLinear") == 0, "restore_ brings the dense layers back"
    with torch.no_grad():
        torch.testing.assert_close(scope["model"](x), y, rtol=1e-3, atol=1e-4)  # type: ignore[operator]
    exec(second, scope)
    ticket = scope["ticket"]
    assert isinstance(ticket, Ticket) and 0.19 < ticket.sparsity < 0.5
    assert torch.equal(Ticket.load("ticket.safetensors").masks["fc1.weight"], ticket.masks["fc1.weight"])
    weight = scope["model"].fc1.weight  # type: ignore[attr-defined]
    assert torch.equal(weight != 0, ticket.masks["fc1.weight"] & (weight != 0))


def test_the_first_python_of_the_readme_is_short() -> None:
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 15


PARSED = ("inspect", "gpu", "sweep", "compare")


@pytest.mark.parametrize("arguments", commands("sparsekern"), ids=" ".join)
def test_the_commands_of_the_readme_run(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] == "run":  # the same, made small: the last of two options counts
        arguments = [
            *arguments,
            "--rounds",
            "1",
            "--iterations",
            "20",
            "--seeds",
            "1",
            "--out",
            str(tmp_path),
        ]
    arguments = [str(ROOT / word) if word.endswith(".toml") else word for word in arguments]
    if arguments[0] in PARSED or arguments[:2] == ["bench", "model"]:  # tests/cli runs these, made small
        _parser().parse_args(arguments)
        return
    if arguments[0] == "bench":
        small, shown_of_it = BENCHES[arguments[1]]
        arguments = [*arguments, *small.split(), "--budget", "0.001"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    if arguments[0] == "run":
        assert (tmp_path / "report.html").stat().st_size > 10_000
        assert str(tmp_path / "report.html") in shown
    else:
        assert (shown_of_it if arguments[0] == "bench" else "reference_linear") in shown


def test_the_make_targets_of_the_docs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, flags=re.MULTILINE))
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert {"run", "test", "lint"} <= targets
    assert set(re.findall(r"(?:`|^)make (\w+)", text, flags=re.MULTILINE)) <= targets


def test_links_lead_somewhere() -> None:
    dead = []
    for page in PAGES:
        links = re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8"))
        local = [link for link in links if not re.match(r"https?://", link)]
        dead += [f"{page.name}: {link}" for link in local if not _exists(page, link)]
    assert dead == []


def _exists(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    if not target.exists():
        return False
    heads = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), flags=re.MULTILINE) if anchor else []
    return not anchor or anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
