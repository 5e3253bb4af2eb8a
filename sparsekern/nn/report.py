"""What a swap did, layer by layer, with its reasons: small dataclasses that print themselves as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparsekern.bench import Ratio


@dataclass(frozen=True)
class LayerReport:
    """One layer. Times are medians of one call, in microseconds; what was not measured is None.

    ``dense_us`` is the best dense implementation's, whose name is ``best_dense``; ``torch_us`` is eager
    torch's. Bytes are those of the weight in memory: with its places and the kernel's own index, where it is
    sparse.
    """

    name: str
    kind: str
    sparsity: float | None
    block: tuple[int, int] | None
    kernel: str | None
    decision: str  # "swapped" or "kept"
    reason: str
    torch_us: float | None = None
    dense_us: float | None = None
    best_dense: str | None = None
    sparse_us: float | None = None
    bytes_dense: int | None = None
    bytes_sparse: int | None = None


@dataclass(frozen=True)
class SwapReport:
    """What ``swap_`` did. ``print(report)`` shows the table.

    ``before_us`` and ``after_us`` are medians of the whole network's call, measured interleaved; ``speedup``
    is their ratio with its 95 % interval; ``undone`` says that everything was put back because the network
    had become slower. ``inside`` is the memory format in which images lie inside the network now, if it is
    another one than that of the inputs.
    """

    layers: tuple[LayerReport, ...]
    before_us: float | None = None
    after_us: float | None = None
    speedup: Ratio | None = None
    undone: bool = False
    inside: str | None = None

    @property
    def swapped(self) -> tuple[LayerReport, ...]:
        """The layers that now run on a sparse kernel."""
        return tuple(layer for layer in self.layers if layer.decision == "swapped")

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and numbers; a missing number is a missing key."""
        content = _present(asdict(self))
        content["layers"] = [_present(asdict(layer)) for layer in self.layers]
        return content

    def __str__(self) -> str:
        head = ("layer", "sparsity", "block", "kernel", "dense us", "sparse us", "decision", "reason")
        table = as_table(head, [_row(layer) for layer in self.layers])
        return f"{table}\n{self.summary()}"

    def summary(self) -> str:
        """One sentence on the whole."""
        count = f"{len(self.swapped)} of {len(self.layers)} layers swapped"
        if self.inside is not None:
            count += f", images {self.inside} inside"
        if self.speedup is None or self.before_us is None or self.after_us is None:
            return f"{count}; the network was not timed"
        times = f"{self.before_us:.1f} us before, {self.after_us:.1f} us after, {self.speedup}"
        if self.undone:
            return f"everything was put back: the whole network had become slower ({times})"
        return f"{count}; the whole network: {times}"


def as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, with a line under the head."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _row(layer: LayerReport) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        layer.name,
        number(layer.sparsity, ".1%"),
        "" if layer.block is None else f"{layer.block[0]}x{layer.block[1]}",
        layer.kernel or "",
        number(layer.dense_us, ".1f"),
        number(layer.sparse_us, ".1f"),
        layer.decision,
        layer.reason,
    ]


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
