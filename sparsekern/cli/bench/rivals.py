"""RIVALS: who computes a linear layer, dense or sparse. A new rival is one line there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekern.bench import DENSE
from sparsekern.nn import SparseLinear

Call = Callable[[Tensor], Tensor]
Prepare = Callable[[Tensor, Tensor, Tensor, tuple[int, int]], "Call | str"]


def _dense(name: str, weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    return DENSE[name](weight, bias, x)


def _onnxruntime(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    if weight.dtype not in (torch.float32, torch.float16):
        return f"numpy, which feeds ONNX Runtime, has no {weight.dtype}"
    ends = x.shape, (x.shape[0], weight.shape[0])
    return onnxruntime_call(onnx_model("Gemm", {"w": weight, "b": bias}, ends, {"transB": 1}))


def onnxruntime_call(model: bytes) -> Call:
    """A call of a model with an input x and an output, on as many threads as torch is set to."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    # Its threads must not spin while other rivals are timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return partial(_onnxruntime_run, session)


def onnx_model(
    op: str,
    constants: Mapping[str, Tensor],
    ends: tuple[Sequence[int], Sequence[int]],
    attributes: Mapping[str, Any],
) -> bytes:
    """One node with its weights as constants, which ONNX Runtime packs when the session is made; `ends` are
    the shapes of x and y."""
    from onnx import TensorProto, helper

    kinds = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}
    kind = kinds[next(iter(constants.values())).dtype]
    tensors = [
        helper.make_tensor(name, kind, part.shape, part.detach().contiguous().numpy().tobytes(), raw=True)
        for name, part in constants.items()
    ]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *constants], ["y"], **attributes)],
        op,
        [helper.make_tensor_value_info("x", kind, ends[0])],
        [helper.make_tensor_value_info("y", kind, ends[1])],
        tensors,
    )
    # Old versions, so that an older ONNX Runtime with a newer onnx reads it too.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _onnxruntime_run(session: Any, x: Tensor) -> Tensor:
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def _csr_matmul(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    csr = weight.to_sparse_csr()
    return lambda x: (csr @ x.T).T + bias


def _csr_linear(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    csr = weight.to_sparse_csr()
    return lambda x: F.linear(x, csr, bias)


def _bsr_linear(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    if weight.shape[0] % block[0] or weight.shape[1] % block[1]:
        return f"takes whole blocks, not {block} in {tuple(weight.shape)}"
    bsr = weight.to_sparse_bsr(block)
    return lambda x: F.linear(x, bsr, bias)


def _sparseprop(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    if weight.dtype is not torch.float32:
        return f"takes float32, not {weight.dtype}"
    from sparseprop.modules import SparseLinear as SparsePropLinear

    layer: Call = SparsePropLinear(weight, nn.Parameter(bias, requires_grad=False))
    return layer


def _sparsekern(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    with torch.device("meta"):  # its own weight is never needed
        linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = nn.Parameter(bias, requires_grad=False)
    return SparseLinear.from_dense(linear, block=block)


RIVALS: dict[str, Prepare] = {
    "torch": partial(_dense, "torch"),
    "onednn": partial(_dense, "onednn"),
    "onnxruntime": _onnxruntime,
    "csr_matmul": _csr_matmul,
    "csr_linear": _csr_linear,
    "bsr_linear": _bsr_linear,
    "sparseprop": _sparseprop,
    "sparsekern": _sparsekern,
}
"""name -> prepare(weight, bias, x, block), a call, or the refusal in words; dense weight (n, k), x (m, k)."""

DENSE_RIVALS = (*DENSE, "onnxruntime")
"""Those among which the best dense one is found."""

CSR_RIVALS = ("csr_matmul", "csr_linear")

NEEDS = {"onnxruntime": ("onnxruntime", "onnx"), "sparseprop": ("sparseprop.modules",)}
"""Modules that a rival, whatever it computes, cannot do without and that need not be here."""


def missing(rival: str) -> str | None:
    """Why the rival is not on this machine, in words; None if it is."""
    for module in NEEDS.get(rival, ()):
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            lacks = error.name or ""
            return "not installed" if lacks == module.partition(".")[0] else f"its {lacks} is not installed"
        except ImportError as error:
            return f"{module} does not load: {_first_line(error)}"
    return None


def prepare(
    rival: str,
    block: tuple[int, int],
    weight: Tensor,
    bias: Tensor,
    x: Tensor,
    table: Mapping[str, Prepare] = RIVALS,
) -> Call | str:
    """The call of a rival of `table` for this weight, called once, or its refusal in words."""
    return attempt(rival, table, (weight, bias, x, block), x)


def attempt(
    rival: str, table: Mapping[str, Callable[..., Call | str]], arguments: tuple[Any, ...], x: Tensor
) -> Call | str:
    """What the rival of `table` prepares from `arguments`, called once with x, or its refusal in words."""
    if reason := missing(rival):
        return reason
    if rival not in table:
        return "has no layer of this kind in this dtype"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse (CSR|BSR) tensor support is in beta")
        try:
            call = table[rival](*arguments)
            if not isinstance(call, str):
                call(x)  # some refuse only now
        except RuntimeError as error:
            return _first_line(error)
    return call


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
