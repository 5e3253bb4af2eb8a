"""Sparse weights: frozen, validated once when made."""

from __future__ import annotations

from sparsekern.formats.block_sparse import BlockSparse

FORMATS = (BlockSparse,)

__all__ = ["FORMATS", "BlockSparse"]
