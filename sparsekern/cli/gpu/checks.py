"""Checks of one kind each: they return what they found in words, and raise where something is wrong."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekern.cli.bench.cases import Truth, rounding_limit
from sparsekern.cli.gpu.drawn import (
    CONV2D,
    LINEAR,
    dense_of,
    draw,
    draw_mask,
    draw_weight,
    packed,
    packed_conv,
)
from sparsekern.cli.gpu.sanitize import sanitize
from sparsekern.cli.gpu.setting import Setting
from sparsekern.kernels.select import PackedWeight
from sparsekern.kernels.table import BY_NAME
from sparsekern.kernels.triton import tune
from sparsekern.kernels.triton.launch import candidates
from sparsekern.ops import conv2d_packed, linear_packed

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SAMPLED = 8  # candidates of each task
TIMES_TORCH = 1.5  # as far from float64 as torch's dense product, or so many times


def computed(weight: PackedWeight, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The product, and the gradients of x and of the weight, which is zero where no block is stored."""
    backend = BY_NAME[LINEAR].backend()
    to_values = backend.grad_values(grad, x, weight)
    return backend.run(x, weight), backend.grad_input(grad, weight), dense_of(weight, to_values)


def truths(weight: PackedWeight, dense: Tensor, x: Tensor, grad: Tensor) -> dict[str, Truth]:
    """What is right for each of them, by its name."""
    nothing = torch.zeros(weight.k, dtype=x.dtype, device=x.device)
    bias = nothing.new_zeros(weight.n) if weight.bias is None else weight.bias
    stored = dense_of(weight, torch.ones_like(weight.values)) != 0
    to_weight = Truth.of(x.T, nothing, grad.T)
    return {
        "y": Truth.of(dense, bias, x),
        "gradient of x": Truth.of(dense.T, nothing, grad),
        "gradient of the values": Truth(torch.where(stored, to_weight.y, 0), to_weight.limit),
    }


def launches(setting: Setting) -> str:
    """Some candidates of each kind of task."""
    device, tiny = setting.device, setting.tiny
    n, k, rows = (32, 32, (20,)) if tiny else (512, 768, (1000, 16))
    kinds = ("linear",) if tiny else ("linear", "linear_input", "linear_values")
    done: Counter[str] = Counter()
    for block, m in product(((16, 16),) if tiny else ((64, 64), (16, 16)), rows):
        weight = draw_weight(device, n, k, block, 0.7)
        for item in tune.linear_products(draw(device, m, k), weight, kinds):
            first, *others = candidates(item.task)
            sample = random.Random(0).sample(others, min(1 if tiny else SAMPLED, len(others)))
            right, left_out = tune.check(item, [first, *sample], until=setting.until, workers=setting.workers)
            if wrong := [reason for reason in left_out if reason.endswith("wrong")]:
                raise ValueError(f"{wrong[0]} for {item.task}")
            done.update({"right": len(right), **left_out})
    return ", ".join(f"{count} {reason}" for reason, count in done.items())


def twice(setting: Setting) -> str:
    """Two runs give the same bits."""
    n, k, rows = (32, 32, (20,)) if setting.tiny else (1024, 1024, (1000, 16))
    weight = draw_weight(setting.device, n, k, (16, 16) if setting.tiny else (64, 64), 0.7)
    for m in rows:
        x, grad = draw(setting.device, m, k), draw(setting.device, m, n)
        once, again = computed(weight, x, grad), computed(weight, x, grad)
        if not all(torch.equal(a, b) for a, b in zip(once, again, strict=True)):
            raise ValueError(f"two runs differ for m = {m}")
    return "the same bits"


def against_torch(setting: Setting) -> str:
    """The error against float64 in units of torch's own, for the same masked weight."""
    n, m = (32, 20) if setting.tiny else (1024, 1000)
    found = []
    for dtype in DTYPES[:1] if setting.tiny else DTYPES:
        mask = draw_mask(setting.device, (n, n), (16, 16) if setting.tiny else (64, 64), 0.7)
        dense = draw(setting.device, n, n, dtype=dtype) * mask
        weight = packed(dense, (16, 16) if setting.tiny else (64, 64), mask, None)
        x = draw(setting.device, m, n, dtype=dtype)
        want = F.linear(x.double(), dense.double())
        ours, torchs = (
            float((got.double() - want).norm() / want.norm())
            for got in (linear_packed(x, weight, LINEAR), F.linear(x, dense))
        )
        name = str(dtype).removeprefix("torch.")
        # Triton's interpreter cuts bits off where a GPU rounds.
        if setting.device.type == "cuda" and ours > TIMES_TORCH * torchs:
            raise ValueError(f"{name}: {ours:.2e} away from float64, torch's dense product {torchs:.2e}")
        found.append(f"{name} {ours / torchs:.2f}")
    return f"{', '.join(found)} times torch's"


def differentiated(setting: Setting) -> str:
    """Autograd, eager and in torch.compile(fullgraph=True), which must not change a bit."""
    n, k, m = (16, 32, 17) if setting.tiny else (512, 768, 100)
    mask = draw_mask(setting.device, (n, k), (16, 16), 0.5)
    dense = draw(setting.device, n, k) * mask
    weight = packed(dense, (16, 16), mask, draw(setting.device, n))
    x, grad = draw(setting.device, m, k), draw(setting.device, m, n)

    def step(x: Tensor, values: Tensor) -> Tensor:
        return linear_packed(x, weight._replace(values=values), LINEAR)

    whole = torch.compile(step, fullgraph=True, backend="aot_eager" if setting.tiny else "inductor")
    results = []
    for forward in (step, whole):
        leaves = [x.clone().requires_grad_(), weight.values.clone().requires_grad_()]
        y = forward(*leaves)
        results.append((y.detach(), *torch.autograd.grad(y, leaves, grad)))
    right = truths(weight, dense, x, grad)
    y, to_x, to_values = results[0]
    for truth, got in zip(right.values(), (y, to_x, dense_of(weight, to_values)), strict=True):
        truth.check(got, torch.bfloat16)
    if not all(torch.equal(a, b) for a, b in zip(*results, strict=True)):
        raise ValueError("torch.compile changes the result")
    return "right, and the same compiled"


def captured(setting: Setting) -> str:
    """A CUDA graph, replayed with another x and other values in the same memory."""
    if setting.device.type != "cuda":
        return "there are no graphs on the CPU"
    for m in (1000, 16):
        weight = draw_weight(setting.device, 1024, 1024, (64, 64), 0.8)
        x = draw(setting.device, m, 1024)
        linear_packed(x, weight, LINEAR)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = linear_packed(x, weight, LINEAR)
        x.copy_(draw(setting.device, m, 1024))
        weight.values.neg_()
        graph.replay()
        assert weight.bias is not None
        Truth.of(dense_of(weight), weight.bias, x).check(y, torch.bfloat16)
    return "right for other numbers"


def convolutions(setting: Setting) -> str:
    """Layers with strides and gaps."""
    sizes = [(16, 16, 1, 1, (16, 16), 4)]
    if not setting.tiny:
        sizes = [(64, 128, 1, 1, (64, 16), 15), (128, 64, 2, 1, (64, 64), 15), (32, 80, 1, 2, (16, 16), 9)]
    for channels, out, stride, dilation, block, side in sizes:
        conv = nn.Conv2d(channels, out, 3, stride, dilation, dilation).to(setting.device, torch.bfloat16)
        mask = draw_mask(setting.device, conv.weight.shape, block, 0.7)
        conv.weight = nn.Parameter(conv.weight.detach() * mask)
        x = draw(setting.device, 2, channels, side, side).contiguous(memory_format=torch.channels_last)
        weight = packed_conv(conv, block, mask)
        with torch.no_grad():
            got = conv2d_packed(x, weight, CONV2D)
            assert conv.bias is not None
            w, b = conv.weight.double(), conv.bias.double()
            want = conv._conv_forward(x.double(), w, b)
            scale = conv._conv_forward(x.double().abs(), w.abs(), b.abs())
        Truth(want, rounding_limit(scale, conv.weight[0].numel(), x.dtype)).check(got, x.dtype)
    return f"{len(sizes)} layers"


CHECKS: Mapping[str, Callable[[Setting], str]] = {
    "launches": launches,
    "two runs": twice,
    "error": against_torch,
    "autograd": differentiated,
    "conv2d": convolutions,
    "CUDA graph": captured,
    "sanitizer": sanitize,
}
"""What is checked once, after the products; a capture that fails may upset what comes after it."""
