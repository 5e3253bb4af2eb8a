"""save and load: networks in safetensors, their sparse layers as values and gaps, the rest as it is.

A file holds what the state dict holds, but of a sparse layer ``values`` (int8 with ``scales``), ``bias``, the
places of its blocks as bytes (formats/gaps.py), and one bit for each stored weight where some are pruned. The
JSON header (bench/tensor_files.py) says for each such layer what it is; which modules are an ``nn.Identity``,
as ``fuse_`` leaves them; which names share a tensor; in which networks images lie in another format than
outside; and a digest of everything. Nothing in it is executed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparsekern._version import __version__
from sparsekern.bench.atomic import write_atomically
from sparsekern.bench.tensor_files import FORMAT, pack, read, write
from sparsekern.formats import BlockSparse, to_gaps
from sparsekern.nn import layout
from sparsekern.nn.layer import SparseLayer
from sparsekern.nn.loading import FIELDS, KINDS, Sparse, changes_of, prefix_of, shape_of, state_of, ties_of
from sparsekern.nn.pretrained import keep_loadable_

WEIGHTS, CONFIG = "sparsekern.safetensors", "config.json"
"""The files of a folder. Under the usual name, model.safetensors, transformers would look for dense weights,
find none, and draw them at random."""

_KIND = "network"
_Model = TypeVar("_Model", bound=nn.Module)


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a network, swapped or not, to a file; at any moment it is the old one or the whole new one.

    Args:
        model: any module whose state dict is of tensors. Layers that ``swap_`` replaced, into which ``fuse_``
            folded others, or that are quantized, take as much as they store: unstructured float32 at 90 %
            zeros about an eighth of its dense size.
        path: ``….safetensors`` is a file. Anything else is a folder, made if there is none:
            ``sparsekern.safetensors``, and ``config.json`` with this library's version, the network's class,
            and the whole configuration of a Hugging Face model.

    Raises:
        ValueError: the state dict holds what is neither parameter nor buffer, or a sparse layer stands in two
            places.
    """
    path = Path(path)
    tensors, header = _stored(model)
    if path.suffix == ".safetensors":
        write(path, _KIND, tensors, header)
        return
    config: dict[str, Any] = {}
    if hasattr(model, "save_pretrained"):
        known: Any = model.config
        config = {**json.loads(known.to_json_string()), "architectures": [type(model).__name__]}
    config["sparsekern"] = {"format": FORMAT, "version": __version__, "class": type(model).__name__}
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    write(path / WEIGHTS, _KIND, tensors, header)


def load(model: _Model, path: str | os.PathLike[str]) -> _Model:
    """Reads what :func:`save` wrote into a network, in place, and returns it.

    The network is a fresh dense one of the same class, whose layers become sparse where the file's are; or
    one that was swapped. There a layer of the same kind keeps its Parameters, whatever its block was; where
    layers are replaced, an optimizer must be made afterwards. A file of a dense network is loaded into a
    swapped one too: patterns are then read from its zeros. Names, shapes and dtypes must be those of the
    network; every index is checked before anything is changed.

    Args:
        model: the network. Its devices and its modes stay.
        path: the file, or the folder that has it.

    Raises:
        ValueError: the file is missing, damaged or none of ``save``'s, or does not fit the network: which
            name, what came, what was expected. The network is as it was.
    """
    file = Path(path) / WEIGHTS if Path(path).is_dir() else Path(path)
    tensors, header = read(file, _KIND)
    try:
        changes = changes_of(model, tensors, header)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    with torch.no_grad():
        for change in changes:
            change()
    keep_loadable_(model)
    return model


def _stored(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the file and its header."""
    state = state_of(model)
    tied = ties_of(state)
    tensors = {name: value.detach() for name, value in state.items() if name not in tied}
    layers: dict[str, dict[str, Any]] = {}
    places: dict[int, str] = {}
    for name, layer in model.named_modules(remove_duplicate=False):
        if not isinstance(layer, Sparse):
            continue
        if (other := places.setdefault(id(layer), name)) != name:
            raise ValueError(f"{name}: is {other} too; expected a sparse layer to stand in one place")
        prefix = prefix_of(name)
        del tensors[f"{prefix}crow"], tensors[f"{prefix}col"]
        tensors[f"{prefix}gaps"] = to_gaps(_matrix(layer))
        if isinstance(layer, SparseLayer) and layer.kept is not None:
            tensors[f"{prefix}kept"] = pack(layer.kept)
        kind = next(kind for kind, (sparse, _) in KINDS.items() if isinstance(layer, sparse))
        dtype = str(layer.values.dtype).removeprefix("torch.")
        described = (kind, list(shape_of(layer)), list(layer.block), dtype, layer.activation)
        layers[name] = dict(zip(FIELDS, described, strict=True))
    identities = [name for name, module in model.named_modules() if type(module) is nn.Identity]
    images = {name: inside for name, module in model.named_modules() if (inside := layout.kept(module))}
    return tensors, {"layers": layers, "identities": identities, "tied": tied, "images": images}


def _matrix(layer: Sparse) -> BlockSparse:
    if isinstance(layer, SparseLayer):
        return layer.matrix
    return BlockSparse.trusted((layer.out_features, layer.in_features), layer.crow, layer.col, layer.values)
