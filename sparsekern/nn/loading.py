"""How a file's tensors come into a network: everything is checked first, then everything is changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsekern.bench.tensor_files import unpack
from sparsekern.formats import BlockSparse, from_gaps
from sparsekern.formats.block_sparse import INT32_MAX
from sparsekern.kernels.select import ACTIVATIONS
from sparsekern.nn import layout
from sparsekern.nn.conv import SparseConv1d, SparseConv2d
from sparsekern.nn.eligible import made_special
from sparsekern.nn.layer import SparseLayer
from sparsekern.nn.linear import SparseLinear
from sparsekern.nn.quantized import QuantizedSparseLinear

Sparse = SparseLayer | QuantizedSparseLinear
KINDS: dict[str, tuple[type[SparseLayer] | type[QuantizedSparseLinear], type[nn.Module]]] = {
    "SparseLinear": (SparseLinear, nn.Linear),
    "SparseConv1d": (SparseConv1d, nn.Conv1d),
    "SparseConv2d": (SparseConv2d, nn.Conv2d),
    "QuantizedSparseLinear": (QuantizedSparseLinear, nn.Linear),
}
"""What a file may name, and the dense layer in whose place it stands."""

FIELDS = ("kind", "shape", "block", "dtype", "activation")
"""What the header says of each sparse layer."""

_FOLDED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.GELU)
_PARTS = ("values", "gaps", "kept", "scales", "bias")
_Change = Callable[[], object]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict's own tensors, no copies.

    Raises:
        ValueError: one is neither parameter nor buffer, so that writing into it might change nothing.
    """
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if id(value) not in own:
            raise ValueError(f"{name}: expected a parameter or a buffer, got a {type(value).__name__}")
    return state


def ties_of(state: dict[str, Tensor]) -> dict[str, str]:
    """For each name of a tensor that came under another name before, that other one."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(value), name) for name, value in state.items()}
    return {name: other for name, other in names.items() if name != other}


def shape_of(layer: nn.Module) -> tuple[int, ...]:
    """Of a layer's dense weight."""
    if isinstance(layer, SparseLayer):
        return layer._weight_shape
    if isinstance(layer, QuantizedSparseLinear):
        return layer.out_features, layer.in_features
    return tuple(cast(Tensor, layer.weight).shape)


def prefix_of(name: str) -> str:
    """With which the names of a module's tensors begin."""
    return f"{name}." if name else ""


def changes_of(model: nn.Module, tensors: dict[str, Tensor], header: dict[str, Any]) -> list[_Change]:
    """What turns ``model`` into the network of a file, to be called in order. Nothing is changed yet.

    Raises:
        ValueError: the file does not fit the model, or is malformed: which name, what came, what was
            expected.
    """
    layers, identities, tied = _checked(header)
    tensors, wanted = dict(tensors), state_of(model)
    for name, other in tied.items():
        if name in tensors or other not in tensors:
            raise ValueError(f"{name}: shares the tensor {other!r}; expected that one in the file, alone")
        tensors[name] = tensors[other]
    _check_ties(tensors, ties_of(wanted))
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        if type(module) is nn.Identity and name not in identities:
            raise ValueError(f"{name}: an nn.Identity in the model; expected one in the file, got none")
    changes: list[_Change] = []
    for name, entry in layers.items():
        parts = {part: tensors.pop(key) for part in _PARTS if (key := prefix_of(name) + part) in tensors}
        try:
            changes += _sparse(model, (name, modules), entry, parts)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    for name in identities:
        changes += _identity(model, name, modules.get(name))
    changes += _laid_out(modules, header.get("images"))
    gone = tuple(prefix_of(name) for name in (*layers, *identities))
    wanted = {name: value for name, value in wanted.items() if not name.startswith(gone)}
    for name, module in modules.items():
        if isinstance(module, SparseLayer) and name not in layers and f"{prefix_of(name)}weight" in tensors:
            changes.append(_from_dense(module, prefix_of(name), tensors, wanted))
    _check_alike(tensors, wanted)
    return [*changes, *(partial(value.copy_, tensors[name]) for name, value in wanted.items())]


# ---- what the file must be


def _checked(header: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str], dict[str, str]]:
    """The parts of the header, of the types that they must have."""
    layers, identities, tied = (header.get(name) for name in ("layers", "identities", "tied"))
    if not isinstance(layers, dict):
        raise ValueError(f"header field 'layers': expected an object, got {layers!r}")
    if not isinstance(identities, list) or not all(isinstance(name, str) for name in identities):
        raise ValueError(f"header field 'identities': expected names, got {identities!r}")
    if not isinstance(tied, dict) or not all(isinstance(name, str) for name in tied.values()):
        raise ValueError(f"header field 'tied': expected names, got {tied!r}")
    for name, entry in layers.items():
        if not isinstance(entry, dict) or sorted(entry) != sorted(FIELDS):
            raise ValueError(f"{name}: expected the fields {FIELDS} in the header, got {entry!r}")
        for field, known in (("kind", tuple(KINDS)), ("activation", ACTIVATIONS)):
            if entry[field] not in known:
                raise ValueError(f"{name}: {field}: expected one of {known}, got {entry[field]!r}")
        for field, lengths, least in (("shape", (2, 3, 4), 0), ("block", (2,), 1)):
            sizes = entry[field]
            ints = isinstance(sizes, list) and all(type(s) is int and least <= s <= INT32_MAX for s in sizes)
            if not ints or len(sizes) not in lengths:
                raise ValueError(f"{name}: {field}: expected {lengths[0]} ints or more, got {sizes!r}")
    return layers, identities, tied


def _laid_out(modules: dict[str, nn.Module], images: object) -> list[_Change]:
    both = [[inside, outside] for inside, outside in permutations(layout.FORMATS)]
    if not isinstance(images, dict) or any(ends not in both for ends in images.values()):
        raise ValueError(f"header field 'images': expected one of {both} by name, got {images!r}")
    if missing := sorted(images.keys() - modules.keys()):
        raise ValueError(f"{missing[0]}: expected a module whose images lie {images[missing[0]]}, got none")
    return [partial(layout.keep_, modules[name], *ends) for name, ends in images.items()]


def _check_ties(tensors: dict[str, Tensor], ties: dict[str, str]) -> None:
    for name, other in ties.items():
        if name in tensors and other in tensors and tensors[name] is not tensors[other]:
            raise ValueError(
                f"{name}: tied to {other} in the model; expected so in the file, got two tensors"
            )


def _check_alike(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    missing, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or more:
        raise ValueError(f"expected the names of the model; missing are {missing}, unexpected {more}")
    for name, value in wanted.items():
        _check_tensor(name, found[name], tuple(value.shape), value.dtype)
        _require_memory(name, value)


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype is not dtype:
        raise ValueError(f"{name}: expected {dtype} {shape}, got {tensor.dtype} {tuple(tensor.shape)}")


def _require_memory(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise ValueError(f"{name}: expected numbers to write over, got the meta device: call to_empty first")


# ---- one layer


def _sparse(
    model: nn.Module, place: tuple[str, dict[str, nn.Module]], entry: dict[str, Any], parts: dict[str, Tensor]
) -> list[_Change]:
    """Fills the sparse layer of the same kind that stands there, or puts one there."""
    name, modules = place
    (kind, dense), target = KINDS[entry["kind"]], modules.get(name)
    alike = tuple(sparse for sparse, stands_for in KINDS.values() if stands_for is dense)
    if target is None or not (
        isinstance(target, alike) or parametrize.type_before_parametrizations(target) is dense
    ):
        got = "nothing" if target is None else type(target).__name__
        raise ValueError(f"a {entry['kind']} in the file; expected an nn.{dense.__name__} there, got {got}")
    if not isinstance(target, alike) and (reason := made_special(target)):
        raise ValueError(f"a {entry['kind']} in the file; expected a plain layer there, but {reason}")
    if sum(module is target for module in modules.values()) > 1:
        raise ValueError("expected a layer in one place, got one that stands in several")
    weight = cast(Tensor, target.values if isinstance(target, alike) else target.weight)
    _require_memory("weight", weight)
    matrix, kept = _decoded(entry, parts, target, weight.dtype)
    if kind is QuantizedSparseLinear:
        return _put(model, name, _quantized(matrix, entry, parts).to(weight.device).train(target.training))
    indices = (matrix.crow.to(weight.device), matrix.col.to(weight.device))
    matrix = BlockSparse.trusted(matrix.shape, *indices, matrix.values.to(weight.device))
    fill = (matrix, None if kept is None else kept.to(weight.device), parts.get("bias"), entry["activation"])
    if isinstance(target, kind):
        return [partial(_fill_, cast(SparseLayer, target), *fill)]
    layer = cast("type[SparseLayer]", kind).from_matrix(matrix, target, fill[1])
    return [partial(_fill_, layer, *fill), *_put(model, name, layer)]


def _decoded(
    entry: dict[str, Any], parts: dict[str, Tensor], target: nn.Module, dtype: torch.dtype
) -> tuple[BlockSparse, Tensor | None]:
    """The matrix, on the CPU, int8 as float32; and which of its values may train."""
    quantized = entry["kind"] == "QuantizedSparseLinear"
    need, may = (
        ({"values", "gaps", "scales"}, {"bias"}) if quantized else ({"values", "gaps"}, {"bias", "kept"})
    )
    if getattr(target, "bias", None) is not None:
        need = need | {"bias"}
    if not need <= set(parts) <= need | may:
        raise ValueError(f"expected the tensors {sorted(need)}, perhaps {sorted(may)}, got {sorted(parts)}")
    if tuple(entry["shape"]) != shape_of(target):
        raise ValueError(f"weight: expected {shape_of(target)}, got {tuple(entry['shape'])}")
    values, (n, *inner) = parts["values"], entry["shape"]
    if quantized or dtype is torch.int8:  # one may come in place of the other
        dtype = torch.int8 if quantized else values.dtype
    if values.dtype is not dtype or entry["dtype"] != str(dtype).removeprefix("torch."):
        raise ValueError(f"values: expected {dtype}, got {values.dtype} called {entry['dtype']!r}")
    for part, its in (("scales", torch.float32), ("bias", torch.float32 if quantized else dtype)):
        if part in parts:
            _check_tensor(part, parts[part], (n,), its)
    shape, (out, of_inputs) = (n, torch.Size(inner).numel()), entry["block"]
    try:
        crow, col = from_gaps(parts["gaps"], shape, (out, of_inputs))
    except ValueError as error:
        raise ValueError(f"gaps: {error}") from error
    matrix = BlockSparse(shape, (out, of_inputs), crow, col, values.float() if quantized else values)
    return matrix, unpack(parts["kept"], values.shape, "kept") if "kept" in parts else None


def _quantized(matrix: BlockSparse, entry: dict[str, Any], parts: dict[str, Tensor]) -> QuantizedSparseLinear:
    layer = QuantizedSparseLinear(matrix, parts.get("bias"), activation=entry["activation"])
    rounded: dict[str, Any] = {"values": parts["values"], "scales": parts["scales"]}
    layer.load_state_dict({**layer.state_dict(), **rounded})  # as they are, not rounded again
    return layer


def _from_dense(
    layer: SparseLayer, prefix: str, tensors: dict[str, Tensor], wanted: dict[str, Tensor]
) -> _Change:
    """Fills a sparse layer from the dense weight of the file, which is taken out of both lists."""
    weight = tensors.pop(f"{prefix}weight")
    for part in ("values", "crow", "col"):
        del wanted[f"{prefix}{part}"]
    _check_tensor(f"{prefix}weight", weight, layer._weight_shape, layer.values.dtype)
    _require_memory(f"{prefix}weight", layer.values)
    return partial(layer.load_state_dict, {"weight": weight}, strict=False)


def _identity(model: nn.Module, name: str, there: nn.Module | None) -> list[_Change]:
    """Puts an nn.Identity where ``fuse_`` put one before the file was written."""
    if type(there) is nn.Identity:
        return []
    if there is None or type(there) not in _FOLDED:
        got = "nothing" if there is None else type(there).__name__
        raise ValueError(f"{name}: an nn.Identity in the file; expected one, or what fuse_ folds, got {got}")
    return _put(model, name, nn.Identity().train(there.training))


# ---- the changes


def _put(model: nn.Module, name: str, module: nn.Module) -> list[_Change]:
    if not name:
        raise ValueError("expected a module that holds layers, got a bare one, which cannot be replaced")
    parent, _, child = name.rpartition(".")
    holder = model.get_submodule(parent)
    return [lambda: holder._modules.update({child: module})]


def _fill_(
    layer: SparseLayer, matrix: BlockSparse, kept: Tensor | None, bias: Tensor | None, activation: str | None
) -> None:
    layer._take(matrix, kept)
    layer.activation = activation
    if bias is not None and layer.bias is not None:
        layer.bias.copy_(bias)
    elif bias is not None:  # of a norm that was folded into it
        layer.register_parameter("bias", nn.Parameter(bias.to(layer.values)))
    vars(layer).pop("_replaced", None)  # what stood there before a swap is not this layer any more
