"""Sequential pre-pruning: a shallow network's predictions are the yardstick by which a deep one is pruned.

Train the shallow proxy, let it label the data (`yardstick`), and score the weights of the deep network by how
far its loss against these labels rises without them: to first order for each weight (`score`), exactly for
whole blocks (`block_rises`). Then a threshold makes the masks, which stay as they are while the deep network
is trained. Soft labels carry what the proxy knows of every class (Hinton et al. 2015, arXiv 1503.02531).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sparsekern.masks import expand, grid
from sparsekern.prune.criteria import taylor
from sparsekern.prune.criteria.context import Batch, Context
from sparsekern.prune.criteria.gradients import weighed_batches
from sparsekern.prune.criteria.network import layer_of, plain_copy


@torch.no_grad()
def yardstick(proxy: nn.Module, inputs: Iterable[Tensor], temperature: float = 1.0) -> list[Batch]:
    """Batches for a Context: each of `inputs` with the proxy's class probabilities (m, classes) as targets.

    The proxy gives logits (m, classes) and is run in eval mode; a higher temperature flattens its
    probabilities (Hinton et al. 2015, arXiv 1503.02531). torch's cross-entropy, the loss of a Context, takes
    such targets. ValueError for a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature!r}")
    was_training = proxy.training
    proxy.eval()
    batches = [(batch, (proxy(batch) / temperature).softmax(dim=-1)) for batch in inputs]
    proxy.train(was_training)
    return batches


def score(weight: Tensor, context: Context) -> Tensor:
    """Squared first-order rise of the loss against the proxy's labels without a weight, (g · w)², by batches.

    A criterion: `criteria.taylor` (Molchanov et al. 2019, arXiv 1906.10771) on the batches of `yardstick`.
    ValueError without a model or batches, or for targets that are not probabilities (m, classes).
    """
    _require_soft(context)
    return taylor.score(weight, context)


@torch.no_grad()
def block_rises(weight: Tensor, context: Context, block: Sequence[int]) -> Tensor:
    """How far the loss rises when a block of the weight `context.name` is zero: exact, for each block alone.

    Returns float64 (block rows, block columns); below zero where the loss is lower without the block. The
    network runs in eval mode, once for each block and batch. ValueError as for `score`, or for a bad block.
    """
    _require_soft(context)
    network = plain_copy(context, "proxy").eval()
    own = layer_of(network, weight, context, "proxy").get_parameter("weight")
    full = own.clone()
    rows, cols = grid(own.shape, block)

    def mean_loss() -> float:
        shares = weighed_batches(context, "proxy")
        return sum(share * float(context.loss(network(x), y)) for share, (x, y) in shares)

    rises = torch.zeros(rows * cols, dtype=torch.float64)
    before = mean_loss()
    for index in range(rows * cols):
        chosen = torch.zeros(rows * cols, dtype=torch.bool, device=own.device)
        chosen[index] = True
        own.copy_(full.masked_fill(expand(chosen.reshape(rows, cols), own.shape, block), 0))
        rises[index] = mean_loss() - before
    return rises.reshape(rows, cols)


def _require_soft(context: Context) -> None:
    for _, targets in context.batches:
        if targets.ndim != 2 or not targets.is_floating_point():
            raise ValueError(
                "proxy scores against class probabilities (m, classes), as yardstick gives them: "
                f"got targets of {targets.dtype} and shape {tuple(targets.shape)}"
            )
