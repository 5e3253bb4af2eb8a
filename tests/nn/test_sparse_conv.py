"""SparseConv2d stays an nn.Conv2d for whoever asks."""

from __future__ import annotations

import copy
import io
import random

import pytest
import torch
import truth
from conv_checks import lying_as
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import sparsekern as sk
from sparsekern.masks import mask_

BLOCKS = pytest.mark.parametrize("block", [(1, 1), (16, 1), (1, 9), (3, 3), None], ids=str)
CASE = truth.ConvCase(48, 10, (3, 3), (16, 1), 0.8, padding=(1, 1))


def pruned(bias: bool = True, sparsity: float = 0.8, dtype: torch.dtype = torch.float32) -> nn.Conv2d:
    case = truth.ConvCase(48, 10, (3, 3), (16, 1), sparsity, padding=(1, 1))
    return case.conv(dtype, bias).requires_grad_()


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 10, 9, 8)


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


# ---- what it computes


def drawn(seed: int) -> tuple[truth.ConvCase, int, str]:
    """A convolution drawn from all that there are, a batch, a layout."""
    of = random.Random(seed).choice
    kernel, dilation = (of((1, 3, 5, 7)), of((1, 3, 5, 7))), (of((1, 2)), of((1, 2)))
    padding: tuple[int, int] | str = of(((0, 0), (1, 1), (2, 2), (1, 2), "same", "valid"))
    mode = of(("zeros", "zeros", "reflect", "replicate", "circular"))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if padding == "same":
        pads = [r // 2 for r in reach]
    else:
        pads = [0, 0] if isinstance(padding, str) else list(padding)
    around = [max(r - 2 * p, p + 1, 1) for r, p in zip(reach, pads, strict=True)]  # the least map
    size = [least + of((0, 0, 1, 3, 8, 16)) for least in around]
    groups = of((1, 1, 1, 1, 2, 5))
    in_ = groups * of((1, 2, 3, 7, 13, 16, 70 if groups == 1 else 8))
    out = groups * of((1, 4, 16, 33))
    k = in_ // groups * kernel[0] * kernel[1]
    fits = [(1, 1), (1, 1), (1, kernel[0] * kernel[1]), (1, k)]
    fits += [(v, 1) for v in (2, 3, 4, 8, 16, 32) if v <= out]
    case = truth.ConvCase(
        out,
        in_,
        kernel,
        of(fits),
        of((0.0, 0.5, 0.9, 1.0)),
        map=(size[0], size[1]),
        stride=(1, 1) if padding == "same" else (of((1, 1, 2, 3)), of((1, 1, 2, 3))),
        padding=padding,
        dilation=dilation,
        groups=groups,
        mode=mode,
        pattern=of((None, None, (out, kernel[0] * kernel[1]), (1, k))),
    )
    layouts = ("default", "channels last", "every other column", "a corner of channels last")
    return case, of((1, 2, 3, 16, 17)), of(layouts)


@pytest.mark.parametrize("first", range(0, 160, 40))
def test_it_computes_what_the_layer_computes(first: int, isa: str) -> None:
    kernels = set()
    for seed in range(first, first + 40):
        case, batch, layout = drawn(seed)
        for dtype in (torch.float32,) if seed % 4 else (torch.float32, torch.float64, torch.bfloat16):
            dense = case.conv(dtype, bias=seed % 3 > 0)
            sparse = sk.SparseConv2d.from_dense(dense, case.block)
            kernels.add(sparse.kernel)
            if dtype is torch.bfloat16 and sparse.kernel.startswith("reference"):
                continue  # oneDNN makes large errors in some, where the strides differ
            x = lying_as(torch.randn(batch, case.in_, *case.map).to(dtype), layout)
            want, limit = truth.conv2d(dense, x), truth.conv_bound(dense, x, None, dtype)
            with torch.no_grad():
                truth.assert_close(sparse(x), want, limit)
                truth.assert_close(sparse(x[0]), want[0], limit[0])
                residual = torch.randn(want.shape).to(dtype)
                got, want = sparse(x, residual), truth.conv2d(dense, x, residual)
                truth.assert_close(got, want, truth.conv_bound(dense, x, residual, dtype))
    assert kernels == {"cpu_conv2d", "reference_conv2d"}


@BLOCKS
@pytest.mark.parametrize("bias", [True, False])
def test_it_stays_the_layer_that_it_was(block: tuple[int, int] | None, bias: bool) -> None:
    dense = pruned(bias)
    sparse = sk.SparseConv2d.from_dense(dense, block)
    assert isinstance(sparse, nn.Conv2d) and sparse.bias is dense.bias
    assert torch.equal(sparse.weight, dense.weight) and torch.equal(sparse.mask, dense.weight != 0)
    assert sparse.sparsity == pytest.approx((dense.weight == 0).float().mean().item())
    for name, value in vars(dense).items():
        if not name.startswith("_") or name == "_reversed_padding_repeated_twice":
            assert getattr(sparse, name) == value
    back = sparse.to_dense()
    assert type(back) is nn.Conv2d and repr(back) == repr(dense) and torch.equal(back.weight, dense.weight)
    x = images()
    close(back(x), dense(x))


def test_attributes_set_later_count() -> None:
    dense = pruned()
    sparse, x = sk.SparseConv2d.from_dense(dense), images()
    for changes in ({"stride": (2, 1)}, {"padding": (0, 2)}, {"dilation": 2}, {"padding": "valid"}):
        for name, value in changes.items():
            setattr(dense, name, value)
            setattr(sparse, name, value)
        close(sparse(x), dense(x))
    sparse.padding = dense.padding = "same"
    for layer in (sparse, dense):
        with pytest.raises(RuntimeError, match="padding='same' is not supported for strided"):
            layer(x)


@pytest.mark.parametrize("name", ["groups", "in_channels", "out_channels"])
def test_what_the_weight_was_made_for_stays(name: str) -> None:
    dense = pruned()
    sparse, x = sk.SparseConv2d.from_dense(dense), images()
    before, was = sparse(x), getattr(sparse, name)
    with pytest.raises(ValueError, match=f"^{name}: the weight was made for {was}, got 5$"):
        setattr(sparse, name, 5)
    setattr(sparse, name, was)
    torch.testing.assert_close(sparse(x), before, rtol=0, atol=0)


def test_none_looks_for_the_best_block() -> None:
    assert sk.SparseConv2d.from_dense(pruned(), None).block[0] >= 16
    scattered = nn.Conv2d(30, 40, 3)
    with torch.no_grad():
        scattered.weight.mul_(torch.rand_like(scattered.weight) < 0.05)
    assert sk.SparseConv2d.from_dense(scattered, None).block == (1, 1)


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"block \(64, 1\) does not fit in a weight of shape \(48, 90\)"):
        sk.SparseConv2d.from_dense(pruned(), (64, 1))
    for mask in (torch.ones(48, 90, dtype=torch.bool), torch.ones(48, 10, 3, 3)):
        with pytest.raises(ValueError, match=r"expected a bool mask of shape \(48, 10, 3, 3\); got"):
            sk.SparseConv2d.from_dense(pruned(), (1, 1), mask)
    matrix = sk.BlockSparse.from_dense(torch.ones(48, 80))
    with pytest.raises(ValueError, match=r"weight: expected \(48, 90\), that of .* got \(48, 80\)"):
        sk.SparseConv2d(matrix, pruned())
    good = sk.SparseConv2d.from_dense(pruned()).matrix
    with pytest.raises(ValueError, match=r"bias: expected torch.float32 \(48,\) on cpu, got .* \(3,\)"):
        sk.SparseConv2d(good, pruned(), torch.zeros(3))
    with pytest.raises(ValueError, match=r"activation: expected one of .*'gelu'.*, got 'tanh'"):
        sk.SparseConv2d(good, pruned(), activation="tanh")


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_padding_larger_than_the_map_is_torchs_error(mode: str) -> None:
    dense = truth.ConvCase(4, 3, (3, 3), (1, 1), 0.5, padding=(9, 9), mode=mode).conv(torch.float32)
    sparse, x = sk.SparseConv2d.from_dense(dense), torch.randn(1, 3, 8, 8)
    for layer in (dense, sparse):
        with pytest.raises(RuntimeError, match="Padding"):
            layer(x)


# ---- checkpoints, copies, moves


@BLOCKS
def test_state_dict_round_trip(block: tuple[int, int] | None) -> None:
    sparse = sk.SparseConv2d.from_dense(pruned(), block)
    other = sk.SparseConv2d.from_dense(pruned(sparsity=0.3), sparse.block)
    held = other.values
    other.load_state_dict(sparse.state_dict())
    assert other.values is held  # an optimizer would still hold it
    assert torch.equal(other(x := images()), sparse(x))


@BLOCKS
def test_dense_checkpoints_load(block: tuple[int, int] | None) -> None:
    dense = pruned(sparsity=0.6)
    sparse = sk.SparseConv2d.from_dense(pruned(), block)
    sparse.load_state_dict(dense.state_dict())
    close(sparse(x := images()), dense(x))
    assert torch.equal(sparse.weight, dense.weight)


def test_damaged_checkpoints_are_refused() -> None:
    sparse = sk.SparseConv2d.from_dense(pruned(), (16, 1))
    state = sparse.state_dict()
    with pytest.raises(ValueError, match="expected a block column"):
        sparse.load_state_dict(dict(state) | {"col": state["col"] + 1000})
    with pytest.raises(ValueError, match=r"weight: expected \(48, 10, 3, 3\), got \(48, 10, 3, 2\)"):
        sparse.load_state_dict({"weight": torch.ones(48, 10, 3, 2), "bias": state["bias"]})
    with pytest.raises(RuntimeError, match="Missing key"):
        sparse.load_state_dict({"bias": state["bias"]})


def test_copies_and_moves() -> None:
    sparse = sk.SparseConv2d.from_dense(pruned(), (16, 1))
    x = images()
    copied = copy.deepcopy(sparse)
    with torch.no_grad():
        copied.values.zero_()
    assert sparse.values.abs().sum() > 0
    assert torch.equal(copied(x), sparse.bias[:, None, None].expand(2, 48, 9, 8))
    double = copy.deepcopy(sparse).double()
    assert double.kernel == "reference_conv2d" and sparse.kernel == "cpu_conv2d"
    close(double(x.double()).float(), sparse(x))
    back = double.float()
    assert back.kernel == "cpu_conv2d" and torch.equal(back(x), sparse(x))
    half = copy.deepcopy(sparse).bfloat16()
    assert half.kernel == "cpu_conv2d" and half(x.bfloat16()).dtype is torch.bfloat16
    assert sparse.to("meta").weight.is_meta


def test_pickles_carry_the_sparse_weight_only() -> None:
    sparse = sk.SparseConv2d.from_dense(pruned(sparsity=0.95), (16, 1))
    file, x = io.BytesIO(), images()
    torch.save(sparse, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(x), sparse(x)) and loaded.geometry_of(loaded) == sparse.geometry_of(sparse)


def test_a_default_device_of_another_kind_is_not_used() -> None:
    for block in ((1, 1), (1, 9), (16, 1)):
        dense, x = pruned(), images()
        with torch.device("meta"):
            sparse = sk.SparseConv2d.from_dense(dense, block)
        close(sparse(x), dense(x))


# ---- masks and training


@pytest.mark.parametrize("ours", [True, False])
def test_masks_are_read_whoever_made_them(ours: bool) -> None:
    dense = nn.Conv2d(10, 48, 3)
    mask = torch.rand_like(dense.weight) < 0.2
    if ours:
        mask_(dense, mask)
    else:
        torch_prune.custom_from_mask(dense, "weight", mask)
    sparse = sk.SparseConv2d.from_dense(dense, (16, 1))
    assert torch.equal(sparse.mask, mask)
    close(sparse(x := images()), dense(x))


def test_it_trains_and_the_mask_holds() -> None:
    """Masks of single weights in vector blocks: what is pruned inside a stored block must stay pruned."""
    dense = nn.Conv2d(10, 48, 3)
    mask = torch.rand_like(dense.weight) < 0.3
    mask_(dense, mask)
    sparse = sk.SparseConv2d.from_dense(dense, (16, 1))
    optimizer = torch.optim.AdamW(sparse.parameters(), lr=0.05, weight_decay=0.1)
    x, target = images(8), torch.randn(8, 48, 7, 6)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (sparse(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert not sparse.weight[~mask].any()
    assert sparse.weight[mask].ne(dense.weight[mask]).all()


def test_gradients_are_those_of_the_masked_layer() -> None:
    dense, x = pruned(), images().requires_grad_()
    sparse = sk.SparseConv2d.from_dense(dense, (16, 1))
    sparse(x).square().sum().backward()
    got = x.grad.clone(), sparse.bias.grad.clone()
    values = sk.BlockSparse.trusted((48, 90), sparse.crow, sparse.col, sparse.values.grad).to_dense()
    x.grad, sparse.bias.grad = None, None
    mask = dense.weight != 0
    dense._conv_forward(x, dense.weight * mask, dense.bias).square().sum().backward()
    for ours, theirs in ((got[0], x.grad), (got[1], dense.bias.grad), (values, dense.weight.grad.flatten(1))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_layers_made_under_inference_mode_train() -> None:
    dense = pruned()
    for block in ((1, 1), (1, 9), (16, 1)):
        with torch.inference_mode():
            sparse = sk.SparseConv2d.from_dense(dense, block)
        sparse(images()).sum().backward()
        assert sparse.values.grad is not None
        sparse.load_state_dict(sparse.state_dict())


def test_reset_parameters_keeps_the_pattern() -> None:
    sparse = sk.SparseConv2d.from_dense(pruned(), (16, 1))
    before = sparse.weight != 0
    sparse.reset_parameters()
    assert torch.equal(sparse.weight != 0, before)
    assert sparse.values.abs().max() <= 1 / 90**0.5


# ---- torch's transforms


@pytest.mark.parametrize("block", [(1, 1), (1, 9), (3, 3)], ids=str)
def test_compile_and_export(block: tuple[int, int]) -> None:
    sparse = sk.SparseConv2d.from_dense(pruned(), block).eval()
    x = images(5)
    want = sparse(x)
    compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
    close(compiled(x), want)
    with torch.no_grad():
        for batch in (5, 3, 1):
            close(compiled(x[:batch]), want[:batch])
        last = x.contiguous(memory_format=torch.channels_last)
        got = compiled(last)
        close(got, want)
        assert got.is_contiguous(memory_format=torch.channels_last)
    close(torch.export.export(sparse, (x,)).module()(x), want)
    torch._dynamo.reset()


def test_derivatives_of_every_kind() -> None:
    dense, x, v = pruned(), images(), images()
    for trains in (True, False):
        sparse = sk.SparseConv2d.from_dense(dense, (16, 1)).requires_grad_(trains)
        torch.testing.assert_close(torch.func.jvp(sparse, (x,), (v,)), torch.func.jvp(dense, (x,), (v,)))
        close(torch.func.vmap(sparse)(x), dense(x))
        residual = torch.randn(2, 48, 9, 8)
        close(torch.func.vmap(sparse)(x, residual), dense(x) + residual)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, v)
            tangent = torch.autograd.forward_ad.unpack_dual(sparse(dual)).tangent
            close(tangent, dense._conv_forward(v, dense.weight, None))


# ---- activation, residual, words


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("block", [(1, 1), (16, 1)])
def test_activation_and_residual_are_part_of_the_layer(activation: str, block: tuple[int, int]) -> None:
    plain = sk.SparseConv2d.from_dense(pruned(), block)
    fused = sk.SparseConv2d(plain.matrix, plain, plain.bias, activation=activation)
    function, x, residual = getattr(torch.nn.functional, activation), images(), torch.randn(2, 48, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), function(plain(x)))
        torch.testing.assert_close(fused(x, residual), function(plain(x) + residual))
        torch.testing.assert_close(fused(x[0], residual[0]), function(plain(x[0]) + residual[0]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert fused(x, residual).dtype is torch.bfloat16
    y = fused(x, residual)  # where a gradient is wanted torch's own activation follows
    torch.testing.assert_close(y, function(plain(x) + residual))
    y.sum().backward()
    want = torch.autograd.grad(function(plain(x) + residual).sum(), plain.values)[0]
    torch.testing.assert_close(fused.values.grad, want)
    assert f"activation={activation}" in repr(fused) and f"activation={activation}" in repr(
        copy.deepcopy(fused)
    )
    with pytest.raises(
        ValueError, match=f"a plain nn.Conv2d has no activation, this layer has '{activation}'"
    ):
        fused.to_dense()


def test_repr_says_what_it_is() -> None:
    words = repr(sk.SparseConv2d.from_dense(pruned(), (16, 1)))
    assert words.startswith("SparseConv2d(10, 48, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), ")
    assert "block=(16, 1)" in words and "kernel=cpu_conv2d" in words


def test_the_variant_follows_the_block() -> None:
    variants = [sk.SparseConv2d.from_dense(pruned(), b).variant(1) for b in ((1, 1), (1, 9), (3, 1), (16, 1))]
    assert variants == ["panels", "panels", "panels", "rows"]
    assert sk.SparseConv2d.from_dense(pruned()).double().variant(16) == "dense"
