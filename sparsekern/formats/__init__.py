"""Sparse weights: frozen, validated once when made."""

from __future__ import annotations

from sparsekern.formats.block_sparse import BlockSparse
from sparsekern.formats.gaps import from_gaps, to_gaps

FORMATS = (BlockSparse,)

__all__ = ["FORMATS", "BlockSparse", "from_gaps", "to_gaps"]
