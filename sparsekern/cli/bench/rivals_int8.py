"""RIVALS_INT8: who computes a linear layer in int8 that quantizes its inputs in the call; float32 in and out.

The weight has a scale for each output, or one in all; x one for each row, or one in all. A new rival is one
line in the table.
"""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import Tensor, nn

from sparsekern.cli.bench.rivals import Call, Prepare, onnxruntime_call
from sparsekern.nn import QuantizedSparseLinear


def _layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    with torch.device("meta"):  # its own weight is never needed
        linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def _dynamic(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    """torch's dynamic quantization: x with one scale and zero point, and 7 bits where sums may saturate."""
    if "x86" not in torch.backends.quantized.supported_engines:
        return "this torch has no engine for quantized layers on x86"
    before = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is on its way out
        try:
            torch.backends.quantized.engine = "x86"
            layer = nn.Sequential(_layer(weight, bias))
            quantized: Call = torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, torch.qint8)  # type: ignore[no-untyped-call]
            quantized(x)  # the weight is packed for the engine that is set now
        finally:
            torch.backends.quantized.engine = before
    return quantized


def _onednn(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    """oneDNN's int8 product with a packed weight, and the quantization of each row around it."""
    if not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return f"torch {torch.__version__} has no oneDNN int8 linear"
    scales = weight.abs().amax(1) / 127
    rounded = (weight / scales.clamp_min(1e-30)[:, None]).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(rounded, list(x.shape))
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    return partial(_onednn_linear, (packed, scales, zeros), bias)


def _onednn_linear(weight: tuple[Tensor, Tensor, Tensor], bias: Tensor, x: Tensor) -> Tensor:
    scale = x.abs().amax(1, keepdim=True) / 127
    q = torch.round(x / scale).to(torch.int8)
    sums = torch.ops.onednn.qlinear_pointwise(q, 1.0, 0, *weight, None, 1.0, 0, torch.float32, "none", [], "")
    return torch.addcmul(bias, sums, scale)


def _onnxruntime(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    """ONNX Runtime's DynamicQuantizeMatMul: x unsigned, with one scale and zero point."""
    from onnx import TensorProto, helper

    scales = weight.abs().amax(1).clamp_min(1e-30) / 127
    rounded = (weight / scales[:, None]).round().to(torch.int8)
    kinds = {torch.int8: TensorProto.INT8, torch.float32: TensorProto.FLOAT}
    parts = {
        "w": rounded.t().contiguous(),
        "s": scales,
        "z": torch.zeros(len(scales)).to(torch.int8),
        "b": bias,
    }
    constants = [
        helper.make_tensor(name, kinds[part.dtype], part.shape, part.numpy().tobytes(), raw=True)
        for name, part in parts.items()
    ]
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "z", "b"], ["y"], domain="com.microsoft")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (x.shape[0], size))
        for name, size in (("x", weight.shape[1]), ("y", weight.shape[0]))
    ]
    graph = helper.make_graph([node], "linear", ends[:1], ends[1:], constants)
    versions = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=8)
    return onnxruntime_call(bytes(model.SerializeToString()))


def _sparsekern(weight: Tensor, bias: Tensor, x: Tensor, block: tuple[int, int]) -> Call | str:
    return QuantizedSparseLinear.from_dense(_layer(weight, bias), block)


RIVALS_INT8: dict[str, Prepare] = {
    "torch": _dynamic,
    "onednn": _onednn,
    "onnxruntime": _onnxruntime,
    "sparsekern": _sparsekern,
}
"""As RIVALS, for int8: float32 weight (n, k), bias (n,) and x (m, k)."""
