"""explain: which kernel each swapped layer runs, and why better ones refused."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sparsekern.nn.linear import SparseLinear
from sparsekern.nn.report import as_table


@dataclass(frozen=True)
class ExplainedLayer:
    """A swapped layer: its kernel, and (kernel, reason) for each that stands before it in the table."""

    name: str
    kernel: str
    block: tuple[int, int]
    density: float
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
            rows.append(
                [layer.name, layer.kernel, block, f"{layer.density:.3f}", why or "the best in the table"]
            )
        return as_table(("layer", "kernel", "block", "density", "why not a better one"), rows)


def explain(model: nn.Module) -> Explanation:
    """Which kernel each swapped layer of ``model`` runs, and why those before it in the table refused."""
    return Explanation(
        tuple(
            ExplainedLayer(name or "(the layer itself)", m.kernel, m.block, m.matrix.density, m.refusals)
            for name, m in model.named_modules()
            if isinstance(m, SparseLinear)
        )
    )
