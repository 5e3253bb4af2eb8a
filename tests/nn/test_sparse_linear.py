"""SparseLinear stays an nn.Linear for whoever asks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import truth
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.masks import mask_

BLOCKS = pytest.mark.parametrize("block", [(1, 1), (16, 1), (4, 4), None], ids=str)


def pruned(n: int = 48, k: int = 40, bias: bool = True, sparsity: float = 0.8) -> nn.Linear:
    layer = nn.Linear(k, n, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(truth.masked_weight(n, k, (16, 1), sparsity, torch.Generator().manual_seed(5)))
    return layer


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@BLOCKS
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_the_layer_computes(block: tuple[int, int] | None, bias: bool) -> None:
    dense = pruned(bias=bias)
    sparse = sk.SparseLinear.from_dense(dense, block)
    for x in (torch.randn(9, 40), torch.randn(2, 3, 40), torch.randn(40), torch.randn(40, 9).t()):
        close(sparse(x), dense(x))
    assert isinstance(sparse, nn.Linear)
    assert (sparse.in_features, sparse.out_features) == (40, 48)
    assert torch.equal(sparse.weight, dense.weight)
    assert sparse.bias is dense.bias
    assert sparse.sparsity == pytest.approx((dense.weight == 0).float().mean().item())


def test_none_looks_for_the_best_block() -> None:
    assert sk.SparseLinear.from_dense(pruned(), None).block[0] >= 16
    scattered = nn.Linear(200, 200)
    with torch.no_grad():
        scattered.weight.mul_(torch.rand(200, 200) < 0.05)
    assert sk.SparseLinear.from_dense(scattered, None).block == (1, 1)


def test_a_block_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"block \(64, 1\) does not fit in a weight of shape \(48, 40\)"):
        sk.SparseLinear.from_dense(pruned(), (64, 1))


@BLOCKS
def test_state_dict_round_trip(block: tuple[int, int] | None) -> None:
    sparse = sk.SparseLinear.from_dense(pruned(), block)
    other = sk.SparseLinear.from_dense(pruned(sparsity=0.3), sparse.block)
    held = other.values
    other.load_state_dict(sparse.state_dict())
    assert other.values is held  # an optimizer would still hold it
    x = torch.randn(5, 40)
    assert torch.equal(other(x), sparse(x))


@BLOCKS
def test_dense_checkpoints_load(block: tuple[int, int] | None) -> None:
    dense = pruned(sparsity=0.6)
    sparse = sk.SparseLinear.from_dense(pruned(), block)
    sparse.load_state_dict(dense.state_dict())
    x = torch.randn(5, 40)
    close(sparse(x), dense(x))
    assert torch.equal(sparse.weight, dense.weight)


def test_damaged_checkpoints_are_refused() -> None:
    sparse = sk.SparseLinear.from_dense(pruned(), (16, 1))
    state = sparse.state_dict()
    bad = dict(state) | {"col": state["col"] + 1000}
    with pytest.raises(ValueError, match="expected a block column"):
        sparse.load_state_dict(bad)
    with pytest.raises(ValueError, match=r"weight: expected \(48, 40\), got \(48, 41\)"):
        sparse.load_state_dict({"weight": torch.ones(48, 41), "bias": state["bias"]})
    with pytest.raises(RuntimeError, match="Missing key"):
        sparse.load_state_dict({"bias": state["bias"]})


def test_copies_and_moves() -> None:
    sparse = sk.SparseLinear.from_dense(pruned(), (16, 1))
    x = torch.randn(5, 40)
    copied = copy.deepcopy(sparse)
    with torch.no_grad():
        copied.values.zero_()
    assert sparse.values.abs().sum() > 0 and torch.equal(copied(x), sparse.bias.expand(5, 48))
    double = copy.deepcopy(sparse).double()
    assert double.kernel == "reference_linear" and sparse.kernel == "cpu_linear"
    close(double(x.double()).float(), sparse(x))
    back = double.float()
    assert back.kernel == "cpu_linear" and torch.equal(back(x), sparse(x))


def test_it_trains_and_the_mask_holds() -> None:
    """Masks of single weights in vector blocks: what is pruned inside a stored block must stay pruned."""
    dense = nn.Linear(40, 48)
    mask = torch.rand(48, 40) < 0.3
    mask_(dense, mask)
    sparse = sk.SparseLinear.from_dense(dense, (16, 1))
    optimizer = torch.optim.AdamW(sparse.parameters(), lr=0.1, weight_decay=0.1)
    x, target = torch.randn(64, 40), torch.randn(64, 48)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (sparse(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert not sparse.weight[~mask].any()
    assert sparse.weight[mask].ne(dense.weight[mask]).all()


def test_gradients_are_those_of_the_masked_layer() -> None:
    dense, x = pruned(), torch.randn(6, 40, requires_grad=True)
    mask = dense.weight != 0
    sparse = sk.SparseLinear.from_dense(dense, (16, 1), mask)
    sparse(x).square().sum().backward()
    got = x.grad.clone(), sparse.matrix.to_dense().detach(), sparse.bias.grad.clone()
    values_grad = sk.BlockSparse.trusted((48, 40), sparse.crow, sparse.col, sparse.values.grad).to_dense()
    x.grad, sparse.bias.grad = None, None
    torch.nn.functional.linear(x, dense.weight * mask, dense.bias).square().sum().backward()
    close(got[0], x.grad)
    close(got[2], dense.bias.grad)
    close(values_grad, dense.weight.grad)


def test_reset_parameters_keeps_the_pattern() -> None:
    sparse = sk.SparseLinear.from_dense(pruned(), (16, 1))
    before = sparse.weight != 0
    sparse.reset_parameters()
    assert torch.equal(sparse.weight != 0, before)
    assert sparse.values.abs().max() <= 1 / 40**0.5


@BLOCKS
def test_compile_and_export(block: tuple[int, int] | None) -> None:
    sparse = sk.SparseLinear.from_dense(pruned(), block).eval()
    x = torch.randn(5, 40)
    want = sparse(x)
    compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
    close(compiled(x), want)
    with torch.no_grad():
        for rows in (5, 3, 1):
            close(compiled(x[:rows]), want[:rows])
    close(torch.export.export(sparse, (x,)).module()(x), want)
    torch._dynamo.reset()


def test_repr_says_what_it_is() -> None:
    words = repr(sk.SparseLinear.from_dense(pruned(), (16, 1)))
    assert "block=(16, 1)" in words and "kernel=cpu_linear" in words and "out_features=48" in words


def test_a_bias_of_another_kind_is_refused() -> None:
    weight = sk.BlockSparse.from_dense(torch.ones(4, 3))
    with pytest.raises(
        ValueError, match=r"bias: expected torch.float32 \(4,\) on cpu, got torch.float32 \(3,\) on cpu"
    ):
        sk.SparseLinear(weight, torch.zeros(3))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_activation_is_part_of_the_layer(activation: str) -> None:
    plain = sk.SparseLinear.from_dense(pruned(), (16, 1))
    fused = sk.SparseLinear(plain.matrix, plain.bias, activation=activation)
    function, x = getattr(torch.nn.functional, activation), torch.randn(9, 40)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), function(plain(x)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert fused(x).dtype is torch.bfloat16
    y = fused(x)  # where a gradient is wanted torch's own activation follows the product
    torch.testing.assert_close(y, function(plain(x)))
    y.sum().backward()
    want = torch.autograd.grad(function(plain(x)).sum(), plain.values)[0]
    torch.testing.assert_close(fused.values.grad, want)
    assert f"activation={activation}" in repr(fused) and f"activation={activation}" in repr(
        copy.deepcopy(fused)
    )
    with pytest.raises(
        ValueError, match=f"a plain nn.Linear has no activation, this layer has '{activation}'"
    ):
        fused.to_dense()


def test_an_unknown_activation_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"activation: expected one of .*'gelu'.*, got 'tanh'"):
        sk.SparseLinear(sk.SparseLinear.from_dense(pruned()).matrix, activation="tanh")


def test_the_variant_follows_the_rows() -> None:
    layer = sk.SparseLinear.from_dense(pruned(), (1, 1))
    assert [layer.variant(rows) for rows in (1, 16, 128)] == ["dots", "rows", "panels"]
    assert layer.double().variant(16) == "dense"


def test_nobody_writes_into_the_dense_copy_of_a_weight() -> None:
    layer = sk.SparseLinear.from_dense(nn.Linear(12, 8))
    before = layer.values.detach().clone()

    def augmented(weight: Tensor) -> None:
        weight.data += 1

    writes: list[Callable[[Tensor], object]] = [
        nn.init.xavier_uniform_,
        augmented,
        lambda weight: weight.mul_(2),
        lambda weight: weight.__setitem__(0, 1.0),
        lambda weight: setattr(weight, "data", torch.zeros(8, 12)),
    ]
    for write in writes:
        with pytest.raises(ValueError, match="what is written into it would be lost"):
            write(layer.weight)
    assert type(layer.weight * 2) is Tensor and type(layer.weight.detach()) is Tensor
    layer.weight.square().sum().backward()
    torch.testing.assert_close(layer.values.grad, 2 * before)
