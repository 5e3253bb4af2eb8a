"""swap_, explain and restore_ with convolutions, whose rivals and reasons are others."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import truth
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import sparsekern as sk
import sparsekern.nn.measure as measure
from sparsekern.bench import DENSE_CONV2D
from sparsekern.kernels import cpu
from sparsekern.masks import mask_

FAST = {name: 100.0 for name in DENSE_CONV2D} | {"sparse": 50.0, "before": 2.0, "after": 1.0}


class Net(nn.Module):
    """Convolutions of several kinds, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 32, 3, padding=1, stride=2)
        self.same = nn.Conv2d(32, 32, 4, padding="same", padding_mode="circular", bias=False)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.last = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.grouped(self.same(self.first(x).relu()).relu())).mean((2, 3)))


def network(sparsity: float = 0.9) -> Net:
    model = Net()
    for layer in (model.first, model.same, model.grouped, model.last, model.head):
        mask_(layer, torch.rand_like(layer.weight) >= sparsity)
    return model


def images() -> Tensor:
    return torch.randn(2, 8, 12, 14)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_are_swapped_and_come_back(
    clock: Callable[..., None], layout: torch.memory_format
) -> None:
    clock(**(FAST | {"onednn_blocked": 60.0}))
    model, x = network(), images().contiguous(memory_format=layout)
    want, state = model(x), copy.deepcopy(model.state_dict())
    layers = dict(model.named_children())
    report = sk.swap_(model, x)
    decisions = {layer.name: (layer.kind, layer.decision) for layer in report.layers}
    assert [decisions[name] for name in ("first", "same", "last")] == [("Conv2d", "swapped")] * 3
    assert decisions["head"] == ("Linear", "swapped")
    assert decisions["grouped"][1] == "kept" and type(model.first) is sk.SparseConv2d
    first = report.layers[0]
    assert first.kernel == "cpu_conv2d" and first.best_dense == "onednn_blocked"
    assert first.reason.endswith("faster than onednn_blocked") and first.dense_us == 60.0
    assert first.bytes_dense == 32 * 8 * 9 * 4 and first.bytes_sparse > 0
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
    assert sk.restore_(model) == 4
    assert all(dict(model.named_children())[name] is layer for name, layer in layers.items())
    assert torch.equal(model(x), want)
    after = model.state_dict()
    assert list(after) == list(state) and all(torch.equal(after[key], state[key]) for key in state)


def test_the_best_dense_is_what_must_be_beaten(clock: Callable[..., None]) -> None:
    clock(**(FAST | {"onednn": 40.0}))
    report = sk.swap_(network(), images())
    assert report.layers[0].decision == "kept" and report.layers[0].best_dense == "onednn"


def test_every_dense_rival_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def interleave(calls: dict[str, Callable[[], object]], **_: object) -> object:
        timed.extend(calls)
        raise InterruptedError

    monkeypatch.setattr(measure, "interleave", interleave)
    with pytest.raises(InterruptedError):
        sk.swap_(nn.Sequential(network().first), images())
    assert {"torch", "channels_last", "(1, 1)"} <= set(timed) and len(timed) > 3


@pytest.mark.parametrize("unbatched", [True, False])
def test_images_without_a_batch_are_measured(clock: Callable[..., None], unbatched: bool) -> None:
    clock(**FAST)
    model = nn.Sequential(network().first)
    x = images()[0] if unbatched else images()
    want = model(x)
    assert sk.swap_(model, x).layers[0].decision == "swapped"
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)


def test_wrong_numbers_are_never_swapped_in(
    clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(**FAST)
    real = sk.SparseConv2d.forward
    monkeypatch.setattr(sk.SparseConv2d, "forward", lambda self, x: real(self, x) + 1e-3)
    report = sk.swap_(network(), images())
    assert [layer.name for layer in report.swapped] == ["head"]
    assert "differs from the dense one in blocks (1, 1)" in report.layers[0].reason


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_measured_or_refused_in_words(
    clock: Callable[..., None], dtype: torch.dtype
) -> None:
    clock(**FAST)
    for seed in range(3):
        conv = truth.ConvCase(24, 60 + seed, (3, 3), (1, 1), 0.97, padding=(1, 1)).conv(dtype)
        report = sk.swap_(nn.Sequential(conv), torch.randn(2, 60 + seed, 9, 8).to(dtype)).layers[0]
        if dtype is torch.float64:
            assert "no kernel takes it: cpu_conv2d takes float32" in report.reason
        else:
            assert report.decision == "swapped"


def test_blocks_are_given_or_chosen(clock: Callable[..., None]) -> None:
    clock(**FAST)
    model = network(0.97)
    assert {layer.block for layer in sk.swap_(model, images(), block=(1, 9)).swapped} >= {(1, 9)}
    report = sk.swap_(network(), images(), block=(32, 1))
    assert "block (32, 1) does not fit in (16, 32, 1, 1)" in report.layers[3].reason


@pytest.mark.skipif(not cpu.features(), reason="needs AVX512_BF16")
def test_pairs_of_channels_are_swapped_in(clock: Callable[..., None]) -> None:
    clock(**(FAST | {"(16, 2)": 40.0}))
    conv = truth.ConvCase(64, 256, (3, 3), (16, 2), 0.95, padding=(1, 1)).conv(torch.bfloat16)
    model, x = nn.Sequential(conv), torch.randn(2, 256, 9, 8).bfloat16()
    (report,) = sk.swap_(model, x).layers
    assert (report.decision, report.block, report.kernel) == ("swapped", (16, 2), "cpu_conv2d_pairs")
    truth.assert_close(model(x), truth.conv2d(conv, x), truth.conv_bound(conv, x, None, torch.bfloat16))


def test_what_is_left_alone_says_why() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    others = {"scaled": Scaled(3, 4, 3), "turned": nn.ConvTranspose2d(3, 4, 3)}
    model = nn.ModuleDict({"net": network(), **others})
    model["norm"] = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    reasons = {layer.name: layer.reason for layer in sk.swap_(model, threshold=0.5).layers}
    assert "net.first" in reasons and reasons["turned"] == "no sparse kernel convolves transposed"
    assert reasons["net.grouped"] == "it has 4 groups; kernels for convolutions take one"
    assert "Scaled is a subclass" in reasons["scaled"] and "_WeightNorm" in reasons["norm"]
    with pytest.raises(ValueError, match=r"bare Conv2d: use SparseConv2d.from_dense"):
        sk.swap_(nn.Conv2d(3, 3, 3), threshold=0.5)
    with pytest.raises(ValueError, match="bare SparseConv2d: use its to_dense"):
        sk.restore_(sk.SparseConv2d.from_dense(nn.Conv2d(3, 3, 3)))


def test_explain_shows_both_kinds() -> None:
    model = network()
    sk.swap_(model, threshold=0.5)
    explained = {layer.name: layer for layer in sk.explain(model).layers}
    assert explained["first"].kernel == "cpu_conv2d" and explained["head"].kernel == "cpu_linear"
    assert set(explained["first"].by_rows.values()) == {"panels"}
    assert "panels" in str(sk.explain(model)) and "dots at 1" in str(sk.explain(model))
    assert explained["last"].block in ((1, 1), (8, 1), (16, 1))


def test_models_pruned_by_torch() -> None:
    model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 1))
    torch_prune.ln_structured(model[0], "weight", 0.9, n=1, dim=1)
    torch_prune.l1_unstructured(model[2], "weight", 0.95)
    x = images()
    want = model(x)
    assert len(sk.swap_(model, threshold=0.8).swapped) == 2
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
    sk.restore_(model)
    assert hasattr(model[0], "weight_orig") and torch.equal(model(x), want)


def test_values_trained_after_the_swap_survive_restore() -> None:
    for channels_last in (True, False):
        model, x = network(), images()
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        sk.swap_(model, threshold=0.8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        model(x).square().sum().backward()
        optimizer.step()
        want = model(x)
        sk.restore_(model)
        torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-4)


def test_a_swapped_network_can_be_copied_and_saved() -> None:
    model, x = network(), images()
    sk.swap_(model, threshold=0.8)
    want = model(x)
    assert torch.equal(copy.deepcopy(model)(x), want)
    other = network()
    sk.swap_(other, threshold=0.8)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(x), want)
    copied = copy.deepcopy(model)
    assert sk.restore_(copied) == 4 and type(copied.same) is nn.Conv2d
    torch.testing.assert_close(copied(x), want, rtol=1e-4, atol=1e-5)
