"""What networks bring along that is not plain: masks on biases, hooks, odd dtypes, failures midway."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import truth
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import sparsekern as sk
from sparsekern.masks import mask_, masks_of
from sparsekern.nn.measure import agrees, rounding


def layer(n: int = 64, k: int = 48, sparsity: float = 0.9) -> nn.Linear:
    made = nn.Linear(k, n)
    with torch.no_grad():
        made.weight.copy_(truth.masked_weight(n, k, (1, 1), sparsity, torch.Generator().manual_seed(n + k)))
    return made


def network(sparsity: float = 0.95) -> nn.Sequential:
    return nn.Sequential(layer(256, 256, sparsity), nn.ReLU(), layer(256, 256, sparsity))


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


# ---- tensors that do not lie as they should


@pytest.mark.parametrize(
    "bias", [torch.randn(128)[::2], torch.ones(1).expand(64)], ids=["strided", "expanded"]
)
@pytest.mark.parametrize("block", [(1, 1), (16, 1), (4, 4)])
def test_a_bias_of_any_stride(bias: Tensor, block: tuple[int, int]) -> None:
    dense = layer()
    dense.bias = nn.Parameter(bias)
    x = torch.randn(10, 48)
    close(sk.SparseLinear.from_dense(dense, block)(x), dense(x))


def test_values_that_do_not_fit_are_refused() -> None:
    sparse, x = sk.SparseLinear.from_dense(layer(), (1, 1)), torch.randn(3, 48)
    with pytest.raises(ValueError, match="do not belong to values"):
        torch.func.functional_call(sparse, {"values": torch.zeros(1, 1, 1)}, (x,))
    with torch.no_grad(), pytest.raises(ValueError, match="values: expected contiguous blocks"):
        sparse.values.data = sparse.values.detach().repeat(1, 1, 2)[..., ::2]
        sparse(x)


def test_type_casts_leave_indices_alone() -> None:
    sparse, x = sk.SparseLinear.from_dense(layer(), (1, 1)), torch.randn(3, 48)
    want = sparse(x)
    assert torch.equal(sparse.type(torch.float32)(x), want)
    close(sparse.type(torch.float64)(x.double()).float(), want)


# ---- torch's transforms


def test_derivatives_of_every_kind() -> None:
    dense, x, v = layer(), torch.randn(5, 48), torch.randn(5, 48)
    for trains in (True, False):
        sparse = sk.SparseLinear.from_dense(dense, (16, 1)).requires_grad_(trains)
        close(torch.func.jvp(sparse, (x,), (v,))[1], torch.func.jvp(dense, (x,), (v,))[1])
        close(torch.func.jacrev(sparse)(x[0]), dense.weight.detach())
        close(torch.func.jacfwd(sparse)(x[0]), dense.weight.detach())
        close(torch.func.vmap(sparse)(x), dense(x))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, v)
            tangent = torch.autograd.forward_ad.unpack_dual(sparse(dual)).tangent
            close(tangent, v @ dense.weight.T)


def test_zero_outputs_have_a_backward() -> None:
    sparse = sk.SparseLinear(sk.BlockSparse.from_dense(torch.empty(0, 5)), torch.empty(0))
    x = torch.randn(2, 3, 5, requires_grad=True)
    sparse(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 3, 5))


def test_layers_made_under_inference_mode_train() -> None:
    dense = layer()
    with torch.inference_mode():
        sparse = sk.SparseLinear.from_dense(dense, (16, 1))
    sparse(torch.randn(3, 48)).sum().backward()
    assert sparse.values.grad is not None
    sparse.load_state_dict(sparse.state_dict())


# ---- masks of others


def test_torch_prune_is_read_from_its_own_tensors() -> None:
    model = nn.Sequential(nn.Linear(48, 64))
    torch_prune.l1_unstructured(model[0], "weight", amount=0.9)
    with torch.no_grad():
        model[0].weight_orig.add_(1.0)  # `weight` is stale until the next forward
    want = model[0].weight_orig * model[0].weight_mask
    assert torch.equal(sk.SparseLinear.from_dense(model[0]).weight, want)


@pytest.mark.parametrize("ours", [True, False])
def test_restore_takes_another_pattern_along(ours: bool) -> None:
    model, other = nn.Sequential(nn.Linear(48, 64)), nn.Sequential(layer(sparsity=0.5))
    if ours:
        sk.prune.prune_(model, sparsity=0.9)
    else:
        torch_prune.l1_unstructured(model[0], "weight", amount=0.9)
    x = torch.randn(7, 48)
    sk.swap_(model, threshold=0.5)
    model.load_state_dict(other.state_dict())
    sk.restore_(model)
    assert torch.equal(model[0].weight, other[0].weight)
    close(model(x), other(x))


def test_restore_keeps_what_is_behind_an_unchanged_mask() -> None:
    model = nn.Sequential(nn.Linear(48, 64))
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    hidden = model[0].weight.detach().clone()
    mask_(model[0], torch.rand(64, 48) < 0.2)
    sk.swap_(model, threshold=0.5)
    sk.restore_(model)
    assert torch.equal(model[0].parametrizations.weight.original.nan_to_num(7), hidden.nan_to_num(7))


def test_alive_zeros_go_on_training_after_a_round_trip() -> None:
    dense, mask = nn.Linear(48, 64), torch.rand(64, 48) < 0.2
    nn.init.zeros_(dense.weight)
    sparse = sk.SparseLinear.from_dense(dense, (16, 1), mask)
    sparse.load_state_dict(sparse.state_dict())
    sparse(torch.randn(9, 48)).square().sum().backward()
    assert int(sparse.values.grad.count_nonzero()) == int(mask.sum())


def test_what_is_pruned_inside_a_block_is_not_multiplied() -> None:
    sparse, x = sk.SparseLinear.from_dense(layer(), (16, 1)), torch.randn(4, 48)
    with torch.no_grad():
        sparse.values.add_(1.0)
        want = x @ sparse.weight.T + sparse.bias
        close(sparse(x), want)
    close(sparse(x), want)
    assert sparse.sparsity > 0.85


# ---- what is left alone


def test_more_that_is_left_alone_says_why() -> None:
    def reasons(model: nn.Module) -> list[str]:
        return [report.reason for report in sk.swap_(model, threshold=0.5).layers]

    masked = nn.Sequential(layer())
    mask_(masked[0], torch.rand(64) < 0.5, "bias")
    assert reasons(masked) == ["its bias is masked"]
    pruned = nn.Sequential(layer())
    torch_prune.random_unstructured(pruned[0], "bias", amount=0.5)
    assert reasons(pruned) == ["its bias is masked"]
    patched = nn.Sequential(layer())
    patched[0].forward = lambda x: x  # type: ignore[method-assign]
    assert reasons(patched) == ["its forward was replaced"]
    laden = nn.Sequential(layer())
    laden[0].register_buffer("scale", torch.ones(1))
    assert "buffers or modules of its own" in reasons(laden)[0]
    assert "meta device" in reasons(nn.Sequential(layer().to("meta")))[0]
    encoder = nn.TransformerEncoderLayer(48, 4, 64)
    with torch.no_grad():
        encoder.linear1.weight[:, 5:] = 0
    assert any("TransformerEncoderLayer reads its weight" in reason for reason in reasons(encoder))


def test_attributes_go_along() -> None:
    model = nn.Sequential(layer())
    model[0].note = "mine"
    sk.swap_(model, threshold=0.5)
    assert isinstance(model[0], sk.SparseLinear) and model[0].note == "mine"


def test_a_block_that_fits_some_layers_only() -> None:
    model = nn.Sequential(layer(64, 48), layer(10, 64))
    report = sk.swap_(model, threshold=0.5, block=(16, 1))
    assert [entry.decision for entry in report.layers] == ["swapped", "kept"]
    assert "block (16, 1) does not fit in (10, 64)" in report.layers[1].reason
    with pytest.raises(ValueError, match="two positive ints"):
        sk.swap_(model, threshold=0.5, block=16)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_is_measured_or_refused_in_words(dtype: torch.dtype) -> None:
    for k in (255, 512):
        report = sk.swap_(nn.Sequential(layer(64, k)).to(dtype), torch.randn(4, k).to(dtype))
        assert report.layers[0].sparse_us is not None and "differs" not in report.layers[0].reason
    double = sk.swap_(nn.Sequential(layer(64, 48)).double(), torch.randn(4, 48).double()).layers[0]
    assert "no kernel takes it" in double.reason and "float64" in double.reason

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = layer()

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.fc(x.bfloat16())

    assert "its input is torch.bfloat16" in sk.swap_(Mixed(), torch.randn(4, 48)).layers[0].reason


def test_a_block_without_a_kernel_leaves_the_others_in(clock: Callable[..., None]) -> None:
    clock(sparse=1.0)
    report = sk.swap_(nn.Sequential(layer(4, 4, 0.5)), torch.randn(256, 4))  # (4, 2) is among its blocks
    assert report.layers[0].decision == "swapped", report


def test_autocast_around_the_swap_changes_no_verdict() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = sk.swap_(network(), torch.randn(64, 256))
    assert not any("differs" in entry.reason for entry in report.layers)


def test_nan_does_not_agree() -> None:
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    want = x @ weight.T
    limit = rounding(want, x, weight, nn.functional.linear)
    assert agrees(want, want, limit)
    assert not agrees(want * float("nan"), want, limit)
    assert not agrees(want[:2], want, limit)


# ---- failures midway, modes, copies


class FailsLater(nn.Module):
    def __init__(self, calls: int, error: type[BaseException]) -> None:
        super().__init__()
        self.body, self.left, self.error = network(), calls, error

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise self.error("enough")
        return self.body(x)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_model_that_fails_later_is_left_as_it_came(error: type[BaseException]) -> None:
    model = FailsLater(4, error).train()
    sk.prune.prune_(model, 0.95)
    layers, masks = list(model.body), masks_of(model)
    with pytest.raises(error, match="enough"):
        sk.swap_(model, torch.randn(64, 256))
    assert all(now is before for now, before in zip(model.body, layers, strict=True))
    assert masks_of(model).keys() == masks.keys() and all(m.training for m in model.modules())


def test_modes_and_frozen_state_follow_the_layers() -> None:
    model = network().train()
    assert sk.swap_(model, torch.randn(64, 256)).swapped
    assert all(m.training for m in model.modules())
    model.requires_grad_(False)
    sk.restore_(model)
    assert all(m.training for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_pickles_carry_the_sparse_weight_only() -> None:
    model = nn.Sequential(nn.Linear(512, 512))
    sk.prune.prune_(model, 0.95)
    sk.swap_(model, threshold=0.5)
    file, x = io.BytesIO(), torch.randn(3, 512)
    torch.save(model, file)
    assert file.tell() < 512 * 512 * 4 * 0.3
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(x), model(x))
    copied = copy.deepcopy(model)
    sk.restore_(copied)
    close(copied(x), model(x))


def test_layers_share_nothing_with_the_format_they_came_from() -> None:
    matrix = sk.BlockSparse.from_dense(layer().weight.detach())
    before = matrix.values.clone()
    with torch.no_grad():
        sk.SparseLinear(matrix).values.zero_()
    assert torch.equal(matrix.values, before)


def test_restore_of_layers_made_by_hand() -> None:
    twice = sk.SparseLinear.from_dense(layer(48, 48))
    model = nn.Sequential(twice, twice)
    assert sk.restore_(model) == 1 and model[0] is model[1]
    with pytest.raises(ValueError, match="bare SparseLinear: use its to_dense"):
        sk.restore_(twice)


def test_another_pattern_drops_the_old_gradient() -> None:
    sparse = sk.SparseLinear.from_dense(layer(), (1, 1))
    sparse(torch.randn(3, 48)).sum().backward()
    sparse.load_state_dict(layer(sparsity=0.5).state_dict())
    assert sparse.values.grad is None


@pytest.mark.parametrize("block", [(1, 1), (16, 1)])
def test_a_default_device_of_another_kind_is_not_used(block: tuple[int, int]) -> None:
    dense, x = layer(), torch.randn(3, 48)
    with torch.device("meta"):
        sparse = sk.SparseLinear.from_dense(dense, block)
    close(sparse(x), dense(x))
