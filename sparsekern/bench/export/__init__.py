"""What becomes of records, and of nothing else: tables, a page, the files of other benchmark tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sparsekern.bench.atomic import write_atomically
from sparsekern.bench.export.page import html
from sparsekern.bench.export.tables import csv, markdown
from sparsekern.bench.export.tools import asv, gha, pytest_benchmark
from sparsekern.bench.record import Record

EXPORTS: dict[str, Callable[[Sequence[Record]], str | Mapping[str, str]]] = {
    "csv": csv,
    "markdown": markdown,
    "html": html,
    "pytest-benchmark": pytest_benchmark,
    "asv": asv,
    "gha": gha,
}
"""name -> write(records of one origin): the text of a file, or of a folder the texts of its files by path."""


def export(records: Sequence[Record], name: str, path: Path) -> None:
    """Write the export called `name` to `path`, each file in one step. ValueError, nothing written, where the
    records lack what it needs."""
    made = EXPORTS[name](records)
    for inside, text in ({"": made} if isinstance(made, str) else made).items():
        target = path / inside
        if inside:
            target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, text.encode("utf-8", "backslashreplace"))
