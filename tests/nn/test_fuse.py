"""fuse_: what it folds computes the same, what it does not says why."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsekern as sk


def sparse_conv(in_: int, out: int, bias: bool = True, **how: object) -> sk.SparseConv2d:
    conv = nn.Conv2d(in_, out, 3, padding=1, bias=bias, **how)
    with torch.no_grad():
        conv.weight.mul_(torch.rand_like(conv.weight) < 0.4)
    return sk.SparseConv2d.from_dense(conv, (8, 1))


def sparse_linear(in_: int, out: int, block: tuple[int, int] = (1, 1)) -> sk.SparseLinear:
    linear = nn.Linear(in_, out)
    with torch.no_grad():
        linear.weight.mul_(torch.rand_like(linear.weight) < 0.4)
    return sk.SparseLinear.from_dense(linear, block)


def settle(model: nn.Module) -> nn.Module:
    """Norms with statistics as after training, in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.3, 3)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


def images(channels: int = 5) -> Tensor:
    return torch.randn(2, channels, 7, 6)


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.Identity()])
def test_norm_and_activation_become_part_of_the_layer(
    bias: bool, affine: bool, activation: nn.Module
) -> None:
    norm = nn.BatchNorm2d(21, affine=affine)
    model = settle(nn.Sequential(sparse_conv(5, 21, bias), norm, copy.deepcopy(activation)))
    x = images()
    with torch.no_grad():
        want = model(x)
        report = sk.fuse_(model)
        close(model(x), want)
    folded = ("1",) if isinstance(activation, nn.Identity) else ("1", "2")
    assert report.folded == folded and all(type(model[int(name)]) is nn.Identity for name in folded)
    assert model[0].activation == {"ReLU": "relu", "GELU": "gelu"}.get(type(activation).__name__)
    assert [name for name, _ in model.named_parameters()] == ["0.values", "0.bias"]
    assert "1 of" not in str(report) and f"{len(folded)} modules folded" in str(report)
    close(model(x), want)  # with a gradient
    assert sk.fuse_(model).folded == ()


@pytest.mark.parametrize("block", [(1, 1), (16, 1), (4, 4)])
def test_linear_layers_too(block: tuple[int, int]) -> None:
    first, last = sparse_linear(30, 42, block), sparse_linear(42, 7)
    model = settle(nn.Sequential(first, nn.BatchNorm1d(42), nn.ReLU(), last))
    x = torch.randn(9, 30)
    want = model(x)
    report = sk.fuse_(model)
    assert report.folded == ("1", "2") and report.layers[1].reason == "it is the model's output"
    close(model(x), want)
    assert model[0].mask.sum() == (model[0].weight != 0).sum()


class Block(nn.Module):
    """As in a ResNet: one ReLU for both places, and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = sparse_conv(8, 8, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = sparse_conv(8, 8, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.act = sparse_conv(8, 8), nn.ReLU()
        self.conv4, self.bn4 = sparse_conv(8, 8), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.seen: object = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y = self.relu(y + x)
        self.seen = y
        z = self.act(self.conv3(y))
        w = self.conv4(z)
        return F.relu(self.bn4(w)) + w


def test_the_flow_of_data_decides() -> None:
    model = settle(Block())
    x = images(8)
    want = model(x)
    seen = model.seen
    report = sk.fuse_(model)
    assert model.seen is seen, "a trace leaves nothing behind"
    close(model(x), want)
    assert report.folded == ("bn1", "bn2", "act") and report.found_by == "by a trace"
    reasons = {layer.name: layer.reason for layer in report.layers}
    assert reasons == {
        "conv1": "relu, which follows, is called 2 times",
        "conv2": "add follows",
        "conv3": "",
        "conv4": "its output goes to 2 places",
    }
    assert "relu, which follows, is called 2 times" in str(report)


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(sparse_conv(5, 8), nn.BatchNorm2d(8), nn.ReLU(), sparse_conv(8, 8))
        self.norm = nn.BatchNorm2d(8)
        self.apart = sparse_conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x))
        return self.apart(y) if y.sum() > 0 else -self.apart(y)


def test_a_model_that_cannot_be_traced_is_searched_for_neighbours() -> None:
    model = settle(Untraceable())
    x = images()
    want = model(x)
    report = sk.fuse_(model)
    close(model(x), want)
    assert report.folded == ("stem.1", "stem.2")
    assert report.found_by.startswith("in nn.Sequential only, since a trace of the model failed with Trace")
    reasons = [layer.reason for layer in report.layers]
    assert reasons == ["", "it is the last of its nn.Sequential", "it stands in no nn.Sequential"]


def test_an_identity_in_between_is_passed() -> None:
    model = settle(
        nn.Sequential(sparse_conv(5, 8), nn.Identity(), nn.BatchNorm2d(8), nn.Identity(), nn.ReLU())
    )
    x = images()
    want = model(x)
    assert sk.fuse_(model).folded == ("2", "4")
    close(model(x), want)
    watched = settle(nn.Sequential(sparse_conv(5, 8), nn.Identity(), nn.BatchNorm2d(8)))
    watched[1].register_forward_hook(lambda module, args, output: output + 1)
    assert sk.fuse_(watched).folded == ()


def test_a_norm_in_training_mode_is_an_error() -> None:
    model = nn.Sequential(sparse_conv(5, 8), nn.BatchNorm2d(8), nn.ReLU())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"BatchNorm2d '1' is in training mode"):
        sk.fuse_(model)
    assert type(model[1]) is nn.BatchNorm2d and list(model.state_dict()) == list(before)


def test_what_cannot_be_folded_says_why() -> None:
    def reason(*after: nn.Module, first: nn.Module | None = None) -> str:
        model = settle(nn.Sequential(first or sparse_conv(5, 8), *after))
        kept = list(model)
        x = images()
        want = model(x)
        report = sk.fuse_(model)
        assert report.folded == () and list(model) == kept
        close(model(x), want)
        return report.layers[0].reason

    assert reason() == "it is the model's output"
    no_statistics = nn.BatchNorm2d(8, track_running_stats=False)
    assert reason(no_statistics) == "BatchNorm2d follows, which keeps no statistics"
    assert reason(nn.GELU(approximate="tanh")) == "GELU follows, which cannot be folded"
    assert reason(nn.Flatten()) == "Flatten follows, which cannot be folded"
    hooked = nn.BatchNorm2d(8)
    hooked.register_forward_hook(lambda module, args, output: output + 1)
    assert "has hooks" in reason(hooked)
    watched = sparse_conv(5, 8)
    watched.register_forward_hook(lambda module, args, output: output + 1)
    assert "it has hooks" in reason(nn.BatchNorm2d(8), first=watched)
    active = sparse_conv(5, 8)
    active.activation = "relu"
    assert reason(nn.ReLU(), first=active) == "it has an activation already"
    assert reason(nn.BatchNorm2d(8), first=active) == "it has an activation already"
    again = nn.BatchNorm2d(8)
    assert "called 2 times" in reason(again, again)
    empty = sk.fuse_(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()))
    assert empty.layers == () and "no layer is swapped" in str(empty)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = sparse_conv(8, 8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x, residual=x))


def test_a_residual_is_not_folded_over() -> None:
    model = settle(Residual())
    x = images(8)
    want = model(x)
    assert sk.fuse_(model).layers[0].reason == "it is called with a residual, which a norm would scale"
    close(model(x), want)


class Hidden(nn.Module):
    """Calls its modules past their places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = sparse_conv(5, 8), nn.BatchNorm2d(8)
        self.steps = (self.conv, self.norm)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


def test_a_module_that_is_reached_past_its_place_stays() -> None:
    model = settle(Hidden())
    x, norm = images(), model.norm
    want = model(x)
    report = sk.fuse_(model)
    assert report.folded == () and "past their places" in report.layers[0].reason
    assert model.norm is norm and torch.equal(model(x), want)


def test_a_layer_in_two_places_is_left_alone() -> None:
    conv = sparse_conv(8, 8)
    model = settle(nn.Sequential(conv, nn.BatchNorm2d(8), conv, nn.ReLU()))
    x = images(8)
    want = model(x)
    assert sk.fuse_(model).folded == ()
    close(model(x), want)


def test_the_dense_layer_that_shares_a_bias_keeps_it() -> None:
    dense = nn.Conv2d(5, 8, 3)
    before = dense.bias.detach().clone()
    model = settle(nn.Sequential(sk.SparseConv2d.from_dense(dense), nn.BatchNorm2d(8)))
    sk.fuse_(model)
    assert torch.equal(dense.bias, before) and model[0].bias is not dense.bias


def test_frozen_layers_stay_frozen_and_others_train() -> None:
    for trains in (True, False):
        model = settle(nn.Sequential(sparse_conv(5, 8), nn.BatchNorm2d(8))).requires_grad_(trains)
        sk.fuse_(model)
        assert all(parameter.requires_grad is trains for parameter in model.parameters())


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), None])
def test_restore_gives_the_folded_layer(activation: nn.Module | None) -> None:
    after = [] if activation is None else [activation]
    model = nn.Sequential(nn.Conv2d(5, 16, 3), nn.BatchNorm2d(16), *after, nn.Conv2d(16, 8, 1))
    sk.prune.prune_(settle(model), 0.6)
    x = images()
    want = model(x)
    assert len(sk.swap_(model, threshold=0.3).swapped) == 2
    sk.fuse_(model)
    fused = copy.deepcopy(model)
    assert sk.restore_(model) == 2
    if activation is None:
        assert type(model[0]) is nn.Conv2d
    else:
        assert type(model[0]) is nn.Sequential and type(model[0][0]) is nn.Conv2d
        assert type(model[0][1]) is type(activation) and not model[0].training
    close(model(x), want)
    close(fused(x), want)
    assert sk.restore_(fused) == 2
    close(fused(x), want)


def test_an_activation_given_by_hand_survives_restore() -> None:
    model = nn.Sequential(nn.Linear(12, 16))
    sk.prune.prune_(model, 0.6)
    x = torch.randn(4, 12)
    want = model(x).relu()
    sk.swap_(model, threshold=0.3)
    model[0].activation = "relu"
    close(model(x), want)
    sk.restore_(model)
    close(model(x), want)


def test_fused_networks_are_copied_saved_and_compiled() -> None:
    model = settle(nn.Sequential(sparse_conv(5, 16), nn.BatchNorm2d(16), nn.ReLU(), sparse_conv(16, 8)))
    sk.fuse_(model)
    x = images()
    with torch.no_grad():
        want = model(x)
        assert torch.equal(copy.deepcopy(model)(x), want)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        close(compiled(x), want)
        torch._dynamo.reset()


class Optional(nn.Module):
    """What it does depends on an argument that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU()

    def forward(self, x: Tensor, norm: Tensor | None = None) -> Tensor:
        y: Tensor = self.conv(x)
        return y if norm is None else self.act(self.bn(y))


class Reading(Optional):
    """Its bias is read past the layer's forward."""

    def forward(self, x: Tensor, norm: Tensor | None = None) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y * self.conv.bias.sum()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "words"), [(Optional, "an argument that may be left out"), (Reading, "past its forward")]
)
def test_a_model_that_does_more_than_a_chain_is_left_alone(kind: type[nn.Module], words: str) -> None:
    model = kind().eval()
    sk.swap_(model, threshold=0.0, block=(1, 1))
    model.get_submodule("bn").running_mean.fill_(2.0)  # type: ignore[union-attr,operator]
    x = torch.randn(2, 8, 6, 6)
    want = model(x)
    report = sk.fuse_(model)
    assert words in report.layers[0].reason
    torch.testing.assert_close(model(x), want)


def test_values_that_two_layers_share_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)).eval()
    sk.swap_(model, threshold=0.0, block=(1, 1))
    model[2].values = model[0].values
    model[1].running_mean.fill_(2.0)  # type: ignore[union-attr,operator]
    x = torch.randn(2, 8, 6, 6)
    want = model(x)
    assert "another layer too" in sk.fuse_(model).layers[0].reason
    torch.testing.assert_close(model(x), want)
