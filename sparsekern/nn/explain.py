"""explain: which kernel each swapped layer runs, and why better ones refused."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sparsekern.nn.layer import SparseLayer
from sparsekern.nn.report import as_table

EXPLAINED_ROWS = (1, 16, 128, 1024)


@dataclass(frozen=True)
class ExplainedLayer:
    """A swapped layer: its kernel, what of it runs for so many rows of input (of a convolution, output
    positions), and (kernel, reason) for each that stands before it in the table."""

    name: str
    kernel: str
    block: tuple[int, int]
    density: float
    by_rows: dict[int, str]
    refusals: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Explanation:
    """All swapped layers of a network; ``print`` shows a table."""

    layers: tuple[ExplainedLayer, ...]

    def __str__(self) -> str:
        if not self.layers:
            return "no layer runs on a sparse kernel"
        rows = []
        for layer in self.layers:
            why = "; ".join(f"{kernel}: {reason}" for kernel, reason in layer.refusals)
            block = f"{layer.block[0]}x{layer.block[1]}"
            variants = set(layer.by_rows.values())
            runs = ", ".join(f"{variant} at {count}" for count, variant in layer.by_rows.items())
            runs = variants.pop() if len(variants) == 1 else runs
            density = f"{layer.density:.3f}"
            rows.append([layer.name, layer.kernel, block, density, runs, why or "the best in the table"])
        heads = ("layer", "kernel", "block", "density", "what runs, at rows of input", "why not a better one")
        return as_table(heads, rows)


def explain(model: nn.Module) -> Explanation:
    """Which kernel each swapped layer of ``model`` runs, and why those before it in the table refused."""
    return Explanation(
        tuple(
            ExplainedLayer(
                name or "(the layer itself)",
                m.kernel,
                m.block,
                m.matrix.density,
                {rows: m.variant(rows) for rows in EXPLAINED_ROWS},
                m.refusals,
            )
            for name, m in model.named_modules()
            if isinstance(m, SparseLayer)
        )
    )
