"""RIVALS: who else computes a linear layer on a GPU. A new rival is one line there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekern.cli.gpu.drawn import Block, draw_mask
from sparsekern.cli.gpu.setting import in_words, raised

Apply = Callable[[Tensor], Tensor]

SPARSITY, BLOCK = 0.9, (64, 64)
"""Of the masks that rivals get."""


@dataclass(frozen=True)
class Prepared:
    """A rival's call, and the weight (n, k) that it multiplies by, from which its truth is computed."""

    call: Apply
    weight: Tensor


Prepare = Callable[[Tensor, Tensor, Tensor], Prepared]


def _cublas(weight: Tensor, bias: Tensor, x: Tensor) -> Prepared:
    return Prepared(lambda x: F.linear(x, weight, bias), weight)


def _cublas_masked(weight: Tensor, bias: Tensor, x: Tensor) -> Prepared:
    """What a masked network computes: zeros take less power, and so a dense product of them is faster."""
    return _cublas(weight * draw_mask(x.device, weight.shape, BLOCK, SPARSITY), bias, x)


def _compiled(weight: Tensor, bias: Tensor, x: Tensor) -> Prepared:
    if x.device.type != "cuda":
        raise RuntimeError("only its products for GPUs are timed here")
    torch._dynamo.reset()  # or the next shape would be compiled for any shape

    def product(x: Tensor) -> Tensor:
        return F.linear(x, weight, bias)

    # With graphs of its own it could not be captured.
    return Prepared(torch.compile(product, mode="max-autotune-no-cudagraphs", dynamic=False), weight)


def _two_of_four(weight: Tensor, bias: Tensor, x: Tensor) -> Prepared:
    from torch.sparse import to_sparse_semi_structured

    order = torch.rand(weight.shape[0], weight.shape[1] // 4, 4, device=x.device).argsort(-1)
    masked = weight * (order < 2).view(weight.shape)
    sparse = to_sparse_semi_structured(masked)
    return Prepared(lambda x: F.linear(x, sparse, bias), masked)


def _torch_bsr(block: Block) -> Prepare:
    def prepare(weight: Tensor, bias: Tensor, x: Tensor) -> Prepared:
        masked = weight * draw_mask(x.device, weight.shape, block, SPARSITY)
        sparse = masked.to_sparse_bsr(block)
        return Prepared(lambda x: F.linear(x, sparse, bias), masked)

    return prepare


RIVALS: Mapping[str, Prepare] = {
    "cublas": _cublas,
    "cublas_masked": _cublas_masked,
    "compiled": _compiled,
    "two_of_four": _two_of_four,
    "torch_bsr_64": _torch_bsr((64, 64)),
    "torch_bsr_32": _torch_bsr((32, 32)),
    "torch_bsr_16": _torch_bsr((16, 16)),
}
"""name -> prepare(weight (n, k), bias, x): dense; dense with zeros in it; what torch.compile finds with
"max-autotune", without its graphs; 2:4; torch's own block-sparse product at 90 %."""

DENSE = ("cublas", "cublas_masked", "compiled")
"""Those that sparse is compared with, each time with the fastest."""

UNCAPTURED = ("two_of_four", "torch_bsr_64", "torch_bsr_32", "torch_bsr_16")
"""Those that nobody promises to be fit for CUDA graphs."""


def attempt(prepare: Prepare, weight: Tensor, bias: Tensor, x: Tensor) -> Prepared | str:
    """What the rival prepares, called once, or its refusal in words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of prototypes and of few multiprocessors
        try:
            prepared = prepare(weight, bias, x)
            prepared.call(x)
        except raised() as error:
            return in_words(error)
    return prepared
