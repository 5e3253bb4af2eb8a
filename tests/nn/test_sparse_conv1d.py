"""SparseConv1d computes what an nn.Conv1d computes, and stays one for whoever asks."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import truth
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.bench import DENSE_CONV2D, as_conv2d

FAST = {name: 100.0 for name in DENSE_CONV2D} | {"sparse": 50.0, "before": 2.0, "after": 1.0}
BLOCKS = pytest.mark.parametrize("block", [(1, 1), (16, 1), (1, 3), (4, 4), None], ids=str)


def pruned(sparsity: float = 0.8, dtype: torch.dtype = torch.float32, **how: object) -> nn.Conv1d:
    conv = nn.Conv1d(10, 48, 3, dtype=dtype, **({"padding": 1} | how))  # type: ignore[arg-type]
    return cut(conv, (16, 1), sparsity)


def cut(conv: nn.Conv1d, block: tuple[int, int], sparsity: float) -> nn.Conv1d:
    """The layer with whole blocks of zeros."""
    shape, generator = conv.weight.shape, torch.Generator().manual_seed(conv.out_channels)
    weight = truth.masked_weight(shape[0], conv.weight[0].numel(), block, sparsity, generator)
    with torch.no_grad():
        conv.weight.copy_(weight.view(shape))
    return conv


def lines(batch: int = 2) -> Tensor:
    return torch.randn(batch, 10, 37)


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def lying_as(x: Tensor, layout: str) -> Tensor:
    """The same numbers elsewhere in memory; around what is not dense lies NaN."""
    if layout == "channels last":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "every other":
        around = torch.full((*x.shape[:2], 2 * x.shape[2] + 1), float("nan"), dtype=x.dtype)
        around[..., 1::2] = x
        return around[..., 1::2]
    return x


def drawn(seed: int, dtype: torch.dtype) -> tuple[nn.Conv1d, tuple[int, int], Tensor]:
    """A convolution drawn from all that there are, a block, an input."""
    of = random.Random(seed).choice
    kernel, dilation, groups = of((1, 2, 3, 5, 9)), of((1, 1, 2, 3)), of((1, 1, 1, 1, 2))
    padding: int | str = of((0, 0, 1, 2, 7, "same", "valid"))
    mode = of(("zeros", "zeros", "reflect", "replicate", "circular"))
    reach = dilation * (kernel - 1) + 1
    pad = reach // 2 if padding == "same" else (0 if isinstance(padding, str) else padding)
    length = max(reach - 2 * pad, pad + 1, 1) + of((0, 1, 3, 8, 31, 100, 250))
    in_, out = groups * of((1, 2, 7, 16, 40)), groups * of((1, 4, 16, 33))
    stride = 1 if padding == "same" else of((1, 1, 2, 3))
    bias = of((True, False))
    conv = nn.Conv1d(in_, out, kernel, stride, padding, dilation, groups, bias, mode, dtype=dtype)
    fits = [(1, 1), (1, kernel), (1, in_ // groups * kernel)]
    block = of(fits + [(v, 1) for v in (1, 2, 3, 4, 8, 16) if v <= out])
    conv = cut(conv, block, of((0.0, 0.5, 0.9, 1.0))).requires_grad_(False)
    x = torch.randn(of((1, 2, 3, 9, 17)), in_, length).to(dtype)
    return conv, block, lying_as(x, of(("default", "default", "channels last", "every other")))


@pytest.mark.parametrize("first", range(0, 160, 40))
def test_it_computes_what_the_layer_computes(first: int, isa: str) -> None:
    for seed in range(first, first + 40):
        dtype = (torch.float32, torch.float32, torch.bfloat16, torch.float64)[seed % 4]
        dense, block, x = drawn(seed, dtype)
        sparse = sk.SparseConv1d.from_dense(dense, block)
        if dtype is torch.bfloat16 and sparse.kernel.startswith("reference"):
            continue  # that is torch's own, whose rounding is not ours to judge
        want, limit = truth.conv2d(dense, x), truth.conv_bound(dense, x, None, dtype)
        with torch.no_grad():
            truth.assert_close(sparse(x), want, limit)
            assert sparse(x).stride() == dense(x).stride()
            truth.assert_close(sparse(x[0]), want[0], limit[0])
            residual = torch.randn(want.shape).to(dtype)
            got, want = sparse(x, residual), truth.conv2d(dense, x, residual)
            truth.assert_close(got, want, truth.conv_bound(dense, x, residual, dtype))


@pytest.mark.parametrize("seed", range(12))
def test_gradients_are_those_of_the_masked_layer(seed: int) -> None:
    dense, block, x = drawn(seed, torch.float32)
    sparse, alive = sk.SparseConv1d.from_dense(dense.requires_grad_(), block), dense.weight != 0
    bias = dense.bias if dense.bias is None else dense.bias.detach().clone().requires_grad_()
    weight = dense.weight.detach().clone().requires_grad_()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    want = dense._conv_forward(theirs, torch.where(alive, weight, 0), bias)
    up = torch.randn(want.shape)
    sparse(ours).backward(up)
    want.backward(up)
    matrix = sk.BlockSparse.trusted(sparse.matrix.shape, sparse.crow, sparse.col, sparse.values.grad)
    pairs = [(ours.grad, theirs.grad), (matrix.to_dense().view(weight.shape)[alive], weight.grad[alive])]
    if bias is not None:
        pairs.append((sparse.bias.grad, bias.grad))
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


@BLOCKS
def test_it_stays_the_layer_that_it_was(block: tuple[int, int] | None) -> None:
    dense = pruned(stride=2, dilation=2, padding_mode="replicate")
    sparse = sk.SparseConv1d.from_dense(dense, block)
    assert isinstance(sparse, nn.Conv1d) and not isinstance(sparse, nn.Conv2d) and sparse.bias is dense.bias
    assert torch.equal(sparse.weight, dense.weight) and torch.equal(sparse.mask, dense.weight != 0)
    for name, value in vars(dense).items():
        if not name.startswith("_") or name == "_reversed_padding_repeated_twice":
            assert getattr(sparse, name) == value
    back = sparse.to_dense()
    assert type(back) is nn.Conv1d and repr(back) == repr(dense) and torch.equal(back.weight, dense.weight)
    assert repr(sparse).startswith("SparseConv1d(10, 48, kernel_size=(3,), stride=(2,), padding=(1,), dil")
    close(sparse(x := lines()), dense(x))


def test_attributes_set_later_count() -> None:
    dense = pruned()
    sparse, x = sk.SparseConv1d.from_dense(dense), lines()
    for name, value in (("stride", (2,)), ("padding", (4,)), ("dilation", 2), ("padding", "valid")):
        setattr(dense, name, value)
        setattr(sparse, name, value)
        close(sparse(x), dense(x))
    sparse.padding = dense.padding = "same"
    for layer in (sparse, dense):
        with pytest.raises(RuntimeError, match="padding='same' is not supported for strided"):
            layer(x)


WRONG = {
    "rank": (torch.ones(5), "Expected 2D (unbatched) or 3D (batched) input to conv1d, but got input of size"),
    "rank 4": (torch.ones(1, 1, 10, 5), "to conv1d, but got input of size: [1, 1, 10, 5]"),
    "channels": (
        torch.ones(1, 2, 5),
        "Given groups=1, weight of size [48, 10, 3], expected input[1, 2, 5] to have 10 channels, but got 2 "
        "channels instead",
    ),
    "no batch": (torch.ones(2, 5), "expected input[1, 2, 5] to have 10 channels"),
    "too short": (
        torch.ones(2, 10, 2),
        "Calculated padded input size per channel: (4). Kernel size: (5). Kernel size can't be greater than "
        "actual input size",
    ),
    "nothing": (torch.ones(10, 0), "Kernel size: (5). Kernel size can't be greater than actual input size"),
    "dtype": (
        torch.ones(1, 10, 9, dtype=torch.float64),
        "Input type (double) and bias type (float) should be",
    ),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("wrong", WRONG)
def test_errors_are_torchs(grad: bool, wrong: str) -> None:
    dense, (x, words) = pruned(dilation=2), WRONG[wrong]
    sparse = sk.SparseConv1d.from_dense(dense, (16, 1))
    with pytest.raises(RuntimeError) as theirs:
        dense(x.requires_grad_(grad))
    with pytest.raises(RuntimeError) as ours:
        sparse(x)
    assert words in str(ours.value)
    assert words in str(theirs.value)


def test_what_does_not_fit_is_an_error() -> None:
    sparse = sk.SparseConv1d.from_dense(pruned(), (16, 1))
    with pytest.raises(ValueError, match=r"expected a bool mask of shape \(48, 10, 3\); got"):
        sk.SparseConv1d.from_dense(pruned(), (1, 1), torch.ones(48, 30, dtype=torch.bool))
    matrix = sk.BlockSparse.from_dense(torch.ones(48, 29))
    with pytest.raises(ValueError, match=r"expected \(48, 30\), that of \(48, 10, 3\) as a matrix, got .*29"):
        sk.SparseConv1d(matrix, pruned())
    for residual in (torch.zeros(48, 37), torch.zeros(2, 48, 36), torch.zeros(2)):
        with pytest.raises(RuntimeError, match=r"residual: expected \(2, 48, 37\), the output's shape, got"):
            sparse(lines(), residual)
    for mode in ("reflect", "circular"):
        layer = sk.SparseConv1d.from_dense(pruned(padding=9, padding_mode=mode))
        with pytest.raises(RuntimeError, match="Padding"):
            layer(torch.ones(1, 10, 8))


@BLOCKS
def test_state_dicts_go_both_ways(block: tuple[int, int] | None) -> None:
    dense, x = pruned(), lines()
    sparse = sk.SparseConv1d.from_dense(dense, block)
    other = sk.SparseConv1d.from_dense(pruned(0.3), sparse.block)
    other.load_state_dict(sparse.state_dict())
    assert torch.equal(other(x), sparse(x)) and torch.equal(copy.deepcopy(sparse)(x), sparse(x))
    denser = pruned(0.5)
    sparse.load_state_dict(denser.state_dict())
    assert torch.equal(sparse.weight, denser.weight)
    close(sparse(x), denser(x))
    denser.load_state_dict(sk.SparseConv1d.from_dense(dense, block).to_dense().state_dict())
    assert torch.equal(denser.weight, dense.weight)


@pytest.mark.parametrize("block", [(1, 1), (4, 4)], ids=str)
def test_compile_export_and_transforms(block: tuple[int, int]) -> None:
    dense = pruned()
    sparse, x = sk.SparseConv1d.from_dense(dense, block), lines(5)
    want = sparse(x)
    close(torch.compile(sparse, fullgraph=True, backend="aot_eager")(x), want)
    close(torch.export.export(sparse, (x,)).module()(x), want)
    close(torch.func.vmap(sparse)(x), want)
    torch.testing.assert_close(torch.func.jvp(sparse, (x,), (x,)), torch.func.jvp(dense, (x,), (x,)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sparse(x).dtype is dense(x).dtype is torch.bfloat16
    torch._dynamo.reset()


# ---- in networks


class Net(nn.Module):
    """A network on lines, with what is swapped and what is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(8, 32, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm1d(32)
        self.relu = nn.ReLU()
        self.grouped = nn.Conv1d(32, 32, 3, padding=1, groups=4)
        self.last = nn.Conv1d(32, 16, 1, bias=False)
        self.up = nn.ConvTranspose1d(16, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.last(self.grouped(self.relu(self.norm(self.first(x))))))
        return y


def network() -> Net:
    model = Net().eval()
    nn.init.uniform_(model.norm.running_var, 0.5, 2)
    nn.init.normal_(model.norm.running_mean)
    sk.prune.prune_(model, 0.9, scope="layer")
    return model


@pytest.mark.parametrize("batch", [(3,), ()])
def test_swap_measures_and_restore_brings_back(clock: Callable[..., None], batch: tuple[int, ...]) -> None:
    clock(**(FAST | {"onednn": 60.0}))
    model, x = network(), torch.randn(*batch, 8, 40)
    if not batch:
        model.norm = nn.Identity()
    want, layers = model(x), dict(model.named_children())
    found = {layer.name: layer for layer in sk.swap_(model, x).layers}
    assert {name: layer.decision for name, layer in found.items()} == {
        "first": "swapped",
        "grouped": "kept",
        "last": "swapped",
        "up": "kept",
    }
    assert found["first"].kind == "Conv1d" and found["first"].best_dense == "onednn"
    assert (
        found["up"].reason == "no sparse kernel convolves transposed"
        and "4 groups" in found["grouped"].reason
    )
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
    assert {layer.kernel for layer in sk.explain(model).layers} == {"cpu_conv2d"}
    assert sk.restore_(model) == 2 and model.first is layers["first"] and torch.equal(model(x), want)
    with pytest.raises(ValueError, match=r"bare Conv1d: use SparseConv1d.from_dense"):
        sk.swap_(nn.Conv1d(3, 3, 3), threshold=0.5)


def test_swap_measures_by_the_clock() -> None:
    """No clock is faked: whatever is decided, the numbers are there and the outputs are the same."""
    model = nn.Sequential(cut(nn.Conv1d(64, 64, 3, padding=1), (1, 1), 0.98), nn.ReLU())
    x = torch.randn(4, 64, 200)
    want = model(x)
    (layer,) = sk.swap_(model, x).layers
    assert layer.torch_us > 0 and layer.dense_us > 0 and layer.sparse_us > 0
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)


def test_fuse_save_and_load(tmp_path: Path) -> None:
    model, x = network(), torch.randn(2, 8, 40)
    want = model(x)
    sk.swap_(model, threshold=0.5)
    assert sk.fuse_(model).folded == ("norm", "relu") and model.first.activation == "relu"
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
    sk.masks.unmask_(model)  # a file has no masks but those of sparse layers
    sk.save(model, tmp_path / "net.safetensors")
    other = sk.load(Net().eval(), tmp_path / "net.safetensors")
    assert type(other.first) is sk.SparseConv1d and torch.equal(other(x), model(x))


def test_lazy_layers_are_left_until_they_know_their_size() -> None:
    model = nn.Sequential(nn.LazyConv1d(16, 3))
    assert "LazyConv1d is a subclass" in sk.swap_(model, threshold=0.0).layers[0].reason
    model(x := torch.randn(1, 4, 9))
    want = model(x)
    assert len(sk.swap_(model, threshold=0.0).swapped) == 1
    close(model(x), want)


@pytest.mark.parametrize("seed", range(16))
def test_the_rivals_compute_the_same(seed: int) -> None:
    dense, _, x = drawn(seed, torch.float32)
    close(as_conv2d(dense)(x.unsqueeze(-2)).squeeze(-2), dense(x))
