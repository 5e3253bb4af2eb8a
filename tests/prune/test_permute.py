"""Permutations folded into neighbouring layers: exact on every kind of network; what must stay is said."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from random_networks import RandomNetwork, kill_units_, unsettled_
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.masks import mask_, masks_of
from sparsekern.prune import prune_
from sparsekern.prune.axes import Untraceable
from sparsekern.prune.permute import Group, permutable, permute_, permuted


def any_order(group: Group) -> Tensor:
    """A random order in which the first index goes to another place."""
    zero = torch.zeros(1, dtype=torch.int64)
    orders = [torch.cat([torch.randperm(group.size - 1) + 1, zero]) for _ in range(group.orders)]
    return orders[0] if group.orders == 1 else torch.stack(orders)


def free(groups: list[Group]) -> list[Group]:
    return [group for group in groups if not group.fixed]


def held(group: Group) -> set[str]:
    return {f"{member.name}[{member.dim}]" for member in group.members}


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(x)
        return result


def assert_exact(model: nn.Module, x: Tensor, tolerance: float = 1e-5) -> list[Group]:
    """Every free group gets another order at once, and outputs stay."""
    before = outputs(model, x)
    groups = permutable(model, x)
    permute_(model, {group: any_order(group) for group in free(groups)})
    error = (outputs(model, x) - before).abs().max() / before.abs().max()
    assert error <= tolerance
    return groups


@pytest.fixture(scope="module")
def lenet() -> list[Group]:
    return permutable(zoo.model("lenet300"), torch.randn(1, 784))


# ---- networks


@pytest.mark.parametrize(
    ("name", "side", "sizes"),
    [
        ("lenet300", 28, [100, 300]),
        pytest.param("vgg16", 32, [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6, marks=pytest.mark.slow),
        ("resnet20", 8, [16] * 4 + [32] * 4 + [64] * 4),
        pytest.param("resnet18", 32, [64] * 3 + [128] * 3 + [256] * 3 + [512] * 3, marks=pytest.mark.slow),
    ],
)
def test_networks_of_the_zoo(name: str, side: int, sizes: list[int]) -> None:
    model = zoo.model(name).eval()
    unsettled_(model)
    if name == "resnet20":
        prune_(model, 0.5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    groups = assert_exact(model, torch.randn(2, model.image[0], side, side))
    assert sorted(group.size for group in free(groups)) == sizes
    stayed = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    assert all("num_batches" in key or key.split(".")[0] in ("fc", "fc3", "classifier") for key in stayed)
    if name == "resnet20":  # a shortcut ties all branches of a stage together
        stream = next(group for group in groups if "layer2.0.downsample.0.weight[0]" in held(group))
        assert {"layer2.0.conv2.weight[0]", "layer2.1.conv2.weight[0]"} <= held(stream)
        assert {"layer2.2.bn2.running_var[0]", "layer2.1.conv1.weight[1]"} <= held(stream)
        assert {"layer3.0.conv1.weight[1]", "layer3.0.downsample.0.weight[1]"} <= held(stream)
        assert "layer2.0.conv1.weight[0]" not in held(stream)


@pytest.mark.parametrize("seed", [5, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(10, 13))])
def test_random_networks(seed: int) -> None:
    model = RandomNetwork(seed).double().eval()
    unsettled_(model)
    kill_units_(model, 0.1, 0.8)
    assert len(free(assert_exact(model, torch.randn(2, 4, 4, 4).double(), 1e-10))) > 3


# ---- attention


class Block(nn.Module):
    """A Transformer block, (m, 5, 12) to (m, 5, 4): three heads of four, projected in one of several ways."""

    def __init__(self, project: Callable[[Block, Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.project = project
        self.start, self.end = nn.Linear(12, 12), nn.Linear(12, 4)
        self.norm, self.head_norm = nn.LayerNorm(12), nn.LayerNorm(4)
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.qkv, self.up, self.down = nn.Linear(12, 36), nn.Linear(12, 20), nn.Linear(10, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        q, k, v = self.project(self, self.norm(x))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        value, gate = self.up(x).chunk(2, -1)
        result: Tensor = self.end(x + self.down(value * F.silu(gate)))
        return result

    def heads(self, y: Tensor) -> Tensor:
        return y.view(len(y), 5, 3, 4).transpose(1, 2)


def separate(block: Block, y: Tensor) -> tuple[Tensor, ...]:
    return tuple(block.heads(layer(y)) for layer in (block.q, block.k, block.v))


def sliced(block: Block, y: Tensor) -> tuple[Tensor, ...]:
    whole = block.qkv(y)
    return tuple(block.heads(whole[..., at : at + 12]) for at in (0, 12, 24))


def unbound(block: Block, y: Tensor) -> tuple[Tensor, ...]:
    return block.qkv(y).reshape(len(y), 5, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)


def normed(block: Block, y: Tensor) -> tuple[Tensor, ...]:
    q, k, v = separate(block, y)
    return block.head_norm(q), block.head_norm(k), v


def mixed(block: Block, y: Tensor) -> tuple[Tensor, ...]:
    """What is added to queries, keys and values is the same, so they cannot have orders of their own."""
    whole = block.qkv(y).reshape(len(y), 5, 3, 12)
    whole = whole + whole.sum(2, keepdim=True)
    return tuple(block.heads(whole[:, :, index]) for index in range(3))


@pytest.mark.parametrize(
    ("project", "q", "v", "orders"),
    [
        (separate, {"q.weight[0]", "k.weight[0]"}, {"v.weight[0]", "out.weight[1]"}, 3),
        (sliced, {"qkv.weight[0]"}, {"qkv.weight[0]", "out.weight[1]"}, 3),
        (unbound, {"qkv.weight[0]"}, {"qkv.weight[0]", "out.weight[1]"}, 3),
        (normed, {"q.weight[0]", "k.weight[0]", "head_norm.weight[0]"}, {"v.weight[0]", "out.weight[1]"}, 1),
        (mixed, {"qkv.weight[0]", "out.weight[1]"}, {"qkv.weight[0]", "out.weight[1]"}, 3),
    ],
)
def test_heads_of_an_attention(
    project: Callable[[Block, Tensor], tuple[Tensor, ...]], q: set[str], v: set[str], orders: int
) -> None:
    """Queries and keys move together, values with what reads them, within each head; and heads as a whole."""
    model, x = Block(project).double().eval(), torch.randn(2, 5, 12).double()
    unsettled_(model)
    groups = assert_exact(model, x, 1e-10)
    heads = [group for group in free(groups) if group.size == 3]
    within = [{place for place in held(group) if "weight" in place} for group in groups if group.size == 4]
    assert q in within and v in within and len(within) == (2 if q == v else 3)  # the outputs are four, too
    assert next(group for group in groups if group.size == 4 and q <= held(group)).orders == orders
    assert len(heads) == 1 and heads[0].orders == 1 and q - {"head_norm.weight[0]"} <= held(heads[0])
    gated = next(group for group in groups if "down.weight[1]" in held(group))
    assert gated.size == 10 and "up.weight[0]" in held(gated)


def test_the_transformer_layer_of_torch() -> None:
    layer = nn.TransformerEncoderLayer(24, 3, 40, batch_first=True)
    model = nn.Sequential(nn.Linear(6, 24), layer, nn.Linear(24, 4)).eval()
    unsettled_(model)
    mask_(layer.linear1, torch.rand(40, 24) < 0.5)
    groups = assert_exact(model, torch.randn(2, 5, 6))
    sizes = sorted((group.size, group.orders) for group in free(groups))
    assert sizes == [(3, 1), (8, 3), (8, 3), (24, 1), (40, 1)]


# ---- what moves along


def test_masks_and_the_values_behind_them_move_along() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    mask_(model[0], torch.rand(5, 3) < 0.5)
    mask_(model[2], torch.rand(2, 5) < 0.5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (group,) = free(permutable(model, torch.randn(1, 3)))
    order = torch.tensor([3, 0, 4, 1, 2])
    permute_(model, {group: order})
    after = model.state_dict()
    for name in ("0.bias", "0.parametrizations.weight.original", "0.parametrizations.weight.0.mask"):
        assert torch.equal(after[name], before[name][order])
    for name in ("2.parametrizations.weight.original", "2.parametrizations.weight.0.mask"):
        assert torch.equal(after[name], before[name][:, order])
    assert torch.equal(after["2.bias"], before["2.bias"])
    assert group.name == "0.weight[0]" and masks_of(model).keys() == {"0.weight", "2.weight"}


def test_a_state_dict_moves_like_the_model_with_or_without_masks() -> None:
    model = zoo.model("lenet300")
    early = {key: torch.randn_like(value) for key, value in model.state_dict().items()}
    prune_(model, 0.5)
    order = {group: any_order(group) for group in free(permutable(model, torch.randn(1, 784)))}
    want = copy.deepcopy(model)
    masked = {key: value.clone() for key, value in model.state_dict().items()}
    permute_(model, order)
    moved = permuted(masked, order)
    assert all(torch.equal(moved[key], value) for key, value in model.state_dict().items())
    with torch.no_grad():
        for key, value in want.named_parameters():
            value.copy_(early[key.replace("parametrizations.", "").replace(".original", "")])
    permute_(want, order)
    plain = permuted(early, order)
    assert torch.equal(plain["fc2.weight"], want.fc2.parametrizations.weight.original)
    assert torch.equal(plain["fc1.bias"], want.fc1.bias)
    assert plain["fc3.bias"] is early["fc3.bias"]


def test_a_shared_layer_and_a_tied_weight_are_one() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.loop, self.out = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
            self.out.weight = self.table.weight

        def forward(self, x: Tensor) -> Tensor:
            y = self.table(x)
            result: Tensor = self.out(y + self.loop(torch.relu(self.loop(y))))
            return result

    model = Shared().eval()
    groups = assert_exact(model, torch.randint(0, 7, (2, 3)))
    (group,) = free(groups)
    assert held(group) == {
        "table.weight[1]",
        "out.weight[1]",
        "loop.weight[0]",
        "loop.weight[1]",
        "loop.bias[0]",
    }
    assert model.out.weight is model.table.weight


def test_modes_and_attributes_come_back() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2).eval())
            self.seen: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.seen = x
            result: Tensor = self.layers(x)
            return result

    model = Remembers()
    permutable(model, torch.randn(1, 3))
    assert model.seen is None and model.layers[1].training and not model.layers[2].training


# ---- what must stay


class Unusual(nn.Module):
    """(m, 4, 6, 6) to (m, 3), with an op in its middle."""

    def __init__(self, op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.op, self.last = nn.Conv2d(4, 8, 3), op, nn.LazyConv2d(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.op(self.first(x))).mean((2, 3))
        return result


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (lambda y: y.flip(1), "aten.flip, an op without a rule, reads or makes it"),
        (lambda y: y[:, 1:4], "indices of it are picked by their numbers"),
        (lambda y: y + torch.arange(8.0)[:, None, None], "aten.arange, an op without a rule"),
        (lambda y: y * y.sum(1, keepdim=True)[:, :, 2:3], ""),
    ],
)
def test_channels_whose_place_matters_stay(op: Callable[[Tensor], Tensor], reason: str) -> None:
    model, x = Unusual(op).eval(), torch.randn(1, 4, 6, 6)
    model(x)
    (group,) = (group for group in assert_exact(model, x) if "first.weight[0]" in held(group))
    assert group.fixed.startswith(reason) and bool(group.fixed) == bool(reason)


def test_inputs_and_outputs_stay_and_say_so(lenet: list[Group]) -> None:
    reasons = {group.name: group.fixed for group in lenet if group.fixed}
    assert reasons == {
        "fc1.weight[1]": "it is an input of the model",
        "fc3.weight[0]": "the model returns it",
    }
    output = next(group for group in lenet if group.fixed == "the model returns it")
    assert str(output) == "10 indices of fc3.weight[0], fc3.bias[0]: fixed, the model returns it"


def test_what_is_not_read_is_not_moved() -> None:
    """Such as a head that only training uses: what its columns mean cannot be known."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model.head = nn.Linear(4, 2)
    model.forward = lambda x: model[1](model[0](x))
    assert all("head" not in place for group in permutable(model, torch.randn(1, 3)) for place in held(group))


def test_wrong_orders_are_refused_and_nothing_changes(lenet: list[Group]) -> None:
    model, other = zoo.model("lenet300"), nn.Sequential(nn.Linear(3, 300), nn.Linear(300, 2))
    groups = {group.name: group for group in lenet}
    hidden, good = groups["fc2.weight[0]"], {groups["fc1.weight[0]"]: torch.randperm(300)}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for order, message in [
        ({groups["fc3.weight[0]"]: torch.randperm(10)}, "must keep its order: the model returns it"),
        (
            {hidden: torch.randperm(99)},
            r"shape \(100,\) in int64 is expected, got torch.int64 of shape \(99,\)",
        ),
        ({hidden: torch.randperm(100).float()}, "got torch.float32"),
        ({hidden: torch.zeros(100, dtype=torch.int64)}, "each of 0 … 99 is expected once"),
        ({permutable(other, torch.randn(1, 3))[0]: torch.randperm(300)}, "is not of this model"),
    ]:
        with pytest.raises(ValueError, match=message):
            permute_(model, {**good, **order})
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(
        ValueError, match=r"fc1.weight: 300 indices expected in dimension 0, got shape \(4, 3\)"
    ):
        permuted({"fc1.weight": torch.zeros(4, 3)}, good)


def test_what_cannot_be_traced_says_why() -> None:
    class Branches(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else -x

    with pytest.raises(Untraceable, match="Branches cannot be traced: GuardOnDataDependentSymNode: "):
        permutable(Branches(3, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="example_inputs do not run: Linear raised RuntimeError"):
        permutable(nn.Linear(3, 3), torch.ones(1, 4))
