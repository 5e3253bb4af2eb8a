"""swap_: only where it is faster, never in silence, and back again exactly."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import sparsekern as sk


def network(sparsity: float = 0.95, block: tuple[int, int] = (16, 1)) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    sk.prune.prune_(model, sparsity, block=block, ignore=("4",))
    return model


def test_a_sparse_network_gets_faster_and_comes_back() -> None:
    """The real clock: 95 % in blocks of 16 wins by far on any machine."""
    model, x = network(), torch.randn(64, 512)
    want, state = model(x), copy.deepcopy(model.state_dict())
    layers = list(model)
    report = sk.swap_(model, x)
    assert [layer.decision for layer in report.layers] == ["swapped", "swapped", "kept"]
    assert report.speedup is not None and report.speedup.low > 1 and not report.undone
    assert isinstance(model[0], sk.SparseLinear) and isinstance(model[4], nn.Linear)
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
    assert sk.restore_(model) == 2
    assert all(now is before for now, before in zip(model, layers, strict=True))
    assert torch.equal(model(x), want)
    after = model.state_dict()
    assert list(after) == list(state) and all(torch.equal(after[key], state[key]) for key in state)


def test_the_report_prints_and_dumps() -> None:
    model = network()
    report = sk.swap_(model, torch.randn(64, 512))
    table = str(report)
    for words in (
        "layer",
        "sparsity",
        "x1",
        "cpu_linear",
        "swapped",
        "faster than",
        "whole network",
    ):
        assert words in table
    content = json.loads(json.dumps(report.to_json()))
    assert content["layers"][0]["sparse_us"] < content["layers"][0]["dense_us"]
    assert "sparse_us" not in content["layers"][2] or content["layers"][2]["decision"] == "kept"


@pytest.mark.parametrize(
    ("sparse", "decision", "words"),
    [(50.0, "swapped", "2.00x"), (97.0, "kept", "not 5 % faster"), (130.0, "kept", "slower")],
)
def test_five_percent_decides(clock: Callable[..., None], sparse: float, decision: str, words: str) -> None:
    clock(torch=100.0, onednn=200.0, sparse=sparse, before=2.0, after=1.0)
    report = sk.swap_(network(), torch.randn(8, 512))
    assert report.layers[0].decision == decision
    assert words in report.layers[0].reason


@pytest.mark.parametrize(("block", "pruned_in"), [((1, 1), (1, 1)), ((2, 1), (1, 1)), ((16, 1), (16, 1))])
def test_the_reported_bytes_are_those_of_all_tensors(
    clock: Callable[..., None], block: tuple[int, int], pruned_in: tuple[int, int]
) -> None:
    clock(torch=100.0, onednn=100.0, sparse=10.0, before=2.0, after=1.0)
    model = network(block=pruned_in)
    entry = sk.swap_(model, torch.randn(8, 512), block=block).layers[0]
    layer = model[0]
    held = {**vars(layer), **layer._parameters, **layer._buffers}
    bytes_of = {
        name: t.untyped_storage().nbytes()
        for name, t in held.items()
        if isinstance(t, Tensor) and name != "bias"
    }
    assert ("kept" in bytes_of) == (block != pruned_in)
    assert entry.bytes_sparse == sum(bytes_of.values()) and entry.bytes_dense == 512 * 512 * 4


def test_the_best_dense_is_what_must_be_beaten(clock: Callable[..., None]) -> None:
    clock(torch=100.0, onednn=40.0, sparse=50.0, before=2.0, after=1.0)
    report = sk.swap_(network(), torch.randn(8, 512))
    assert {layer.decision for layer in report.layers} == {"kept"}
    assert report.layers[0].best_dense == "onednn" and report.layers[0].dense_us == 40.0


def test_everything_is_undone_when_the_network_got_slower(clock: Callable[..., None]) -> None:
    clock(torch=100.0, onednn=100.0, sparse=10.0, before=1.0, after=1.1)
    model = network()
    layers = list(model)
    report = sk.swap_(model, torch.randn(8, 512))
    assert report.undone and not report.swapped
    assert all(now is before for now, before in zip(model, layers, strict=True))
    assert "put back" in report.layers[0].reason and "put back" in str(report)


def test_wrong_numbers_are_never_swapped_in(
    clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(torch=100.0, onednn=100.0, sparse=1.0, before=2.0, after=1.0)
    real = sk.SparseLinear.forward
    monkeypatch.setattr(sk.SparseLinear, "forward", lambda self, x: real(self, x) + 1e-3)
    report = sk.swap_(network(), torch.randn(8, 512))
    assert not report.swapped
    assert "differs from the dense one" in report.layers[0].reason


def test_a_dense_network_is_left_alone_without_timing() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    report = sk.swap_(model, torch.randn(8, 64))
    assert not report.swapped and report.before_us is None
    assert [layer.reason for layer in report.layers] == ["no weight is zero"] * 2


def test_a_hopeless_layer_is_not_timed() -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    sk.prune.prune_(model, 0.1)
    report = sk.swap_(model, torch.randn(8, 64), block=(1, 1))
    assert "times the best dense time at this sparsity; not timed" in report.layers[0].reason


def test_threshold_obeys() -> None:
    model = network(0.85)
    report = sk.swap_(model, threshold=0.8)
    assert [layer.decision for layer in report.layers] == ["swapped", "swapped", "kept"]
    assert "below the threshold 80.0%" in report.layers[2].reason
    assert "the network was not timed" in str(report)
    model = network(0.7)
    assert not sk.swap_(model, torch.randn(2, 512), threshold=0.8).swapped


def test_a_given_block_and_a_filter() -> None:
    model = network(0.9)
    report = sk.swap_(model, threshold=0.5, block=(8, 1), filter_fn=lambda layer, name: name != "2")
    assert report.layers[0].block == (8, 1)
    assert report.layers[1].reason == "left out by filter_fn"


def test_models_pruned_by_torch() -> None:
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
    torch_prune.ln_structured(model[0], "weight", 0.9, n=1, dim=1)
    torch_prune.l1_unstructured(model[2], "weight", 0.95)
    x = torch.randn(16, 512)
    want = model(x)
    assert len(sk.swap_(model, threshold=0.8).swapped) == 2
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
    sk.restore_(model)
    assert hasattr(model[0], "weight_orig") and torch.equal(model(x), want)


def test_values_trained_after_the_swap_survive_restore() -> None:
    model, x = network(), torch.randn(8, 512)
    sk.swap_(model, threshold=0.8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().sum().backward()
    optimizer.step()
    want = model(x)
    sk.restore_(model)
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-4)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.free = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.free(self.b(self.a(x)))


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def zero(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p[:, 2:].zero_() if p.dim() == 2 else None
    return model


def reasons(model: nn.Module) -> dict[str, str]:
    return {layer.name: layer.reason for layer in sk.swap_(zero(model), threshold=0.5).layers}


def test_what_is_left_alone_says_why() -> None:
    tied = reasons(Tied())
    assert "tied" in tied["a"] and "tied" in tied["b"] and "reaches the threshold" in tied["free"]
    attention = nn.ModuleDict({"attention": nn.MultiheadAttention(32, 4), "after": nn.Linear(32, 32)})
    assert "MultiheadAttention" in reasons(attention)["attention.out_proj"]
    assert "Scaled is a subclass" in reasons(nn.Sequential(Scaled(32, 32)))["0"]
    hooked = nn.Sequential(nn.Linear(32, 32))
    hooked[0].register_forward_hook(lambda module, args, output: output + 1)
    assert "hooks" in reasons(hooked)["0"]
    twice = nn.Linear(32, 32)
    assert "two places" in reasons(nn.Sequential(twice, nn.ReLU(), twice))["0"]
    spectral = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(32, 32)))
    assert "parametrized by _WeightNorm" in reasons(spectral)["0"]


def test_a_layer_that_the_inputs_never_reach() -> None:
    model = Tied()
    model.b = nn.Linear(32, 32)
    model.forward = lambda x: model.free(x)  # type: ignore[method-assign]
    report = sk.swap_(zero(model), torch.randn(4, 32))
    assert "never reach" in report.layers[0].reason and "never reach" not in report.layers[2].reason


def test_modes_gradients_and_statistics_are_untouched() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 32)).train()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    sk.swap_(zero(model), torch.randn(8, 32))
    assert [m.training for m in model] == [True, True, False, True]
    sk.restore_(model)
    assert torch.equal(model.state_dict()["1.running_mean"], before["1.running_mean"])


@pytest.mark.parametrize("inputs", [(torch.randn(4, 32),), {"x": torch.randn(4, 32)}, [torch.randn(4, 32)]])
def test_inputs_as_tuple_dict_or_list(inputs: object) -> None:
    assert len(sk.swap_(zero(Tied()), inputs).layers) == 3


def test_bad_input_is_named() -> None:
    model = network()
    with pytest.raises(
        ValueError, match=r"example_inputs do not run: Sequential raised RuntimeError: mat1 and mat2"
    ):
        sk.swap_(model, torch.randn(4, 7))
    with pytest.raises(ValueError, match="needs example_inputs"):
        sk.swap_(model)
    with pytest.raises(ValueError, match=r"threshold: expected .auto. or a sparsity in \[0, 1\], got 80"):
        sk.swap_(model, threshold=80)
    with pytest.raises(ValueError, match=r"bare Linear: use SparseLinear.from_dense"):
        sk.swap_(nn.Linear(3, 3), torch.randn(1, 3))


def test_explain_names_kernels_and_refusals() -> None:
    model = network(block=(1, 1))
    assert str(sk.explain(model)) == "no layer runs on a sparse kernel"
    sk.swap_(model, threshold=0.8, block=(1, 1))
    explained = sk.explain(model)
    assert [layer.kernel for layer in explained.layers] == ["cpu_linear"] * 2
    assert explained.layers[0].by_rows == {1: "dots", 16: "rows", 128: "panels", 1024: "panels"}
    assert "dots at 1, rows at 16" in str(explained)


def test_a_swapped_network_can_be_copied_and_saved() -> None:
    model, x = network(), torch.randn(8, 512)
    sk.swap_(model, threshold=0.8)
    want = model(x)
    assert torch.equal(copy.deepcopy(model)(x), want)
    other = network()
    sk.swap_(other, threshold=0.8)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), want)
    assert not any("_replaced" in key or "weight_orig" in key for key in model.state_dict())
