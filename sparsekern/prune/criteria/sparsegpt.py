"""The score of the optimal brain surgeon and SparseGPT: what a weight costs once the others make up for it.

Hassibi & Stork 1992 (NeurIPS 5), on a layer's own outputs as in Frantar & Alistarh 2023 (arXiv 2301.00774).
`sparsegpt_` prunes a layer and makes the others do so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekern.prune.criteria.context import Context
from sparsekern.prune.criteria.inputs import inputs_of, per_group
from sparsekern.prune.criteria.network import layer_of, plain_copy
from sparsekern.prune.criteria.obs import gram, inverse


def score(weight: Tensor, context: Context) -> Tensor:
    """w_j² / [H⁻¹]_jj, where H = X Xᵀ / samples of the layer's inputs X, damped.

    It is the least squared error of the layer's outputs, summed over positions and averaged over samples,
    that removing w_j alone can be made to cost. The network runs in eval mode. ValueError without a model or
    batches, and for a layer that is not called or is only given zeros.
    """
    network = plain_copy(context, "sparsegpt")
    layer = layer_of(network, weight, context, "sparsegpt")
    free = inverse(gram(layer, inputs_of(network, context, "sparsegpt"))).diagonal(dim1=1, dim2=2)
    return (weight.detach().double().square() / per_group(layer, free)).to(torch.float32)
