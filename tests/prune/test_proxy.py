"""Sequential pre-pruning: a shallow network's labels, scores and exact rises against them, a real case."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.masks import mask_, maskable
from sparsekern.prune import Context, top_blocks
from sparsekern.prune.proxy import block_rises, score, yardstick


def deep() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def forward(model: nn.Sequential, inputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(hidden, logits) of `deep` in float64, apart from torch."""
    w1, b1, w2, b2 = (parameter.detach().double().numpy() for parameter in model.parameters())
    hidden = np.tanh(inputs.double().numpy() @ w1.T + b1)
    return hidden, hidden @ w2.T + b2


def test_the_yardstick_is_the_proxys_softmax_and_leaves_the_proxy_alone() -> None:
    proxy = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)).train()
    inputs = torch.randn(9, 6)
    batches = yardstick(proxy, inputs.split(4), temperature=2.0)
    assert proxy.training and [len(x) for x, _ in batches] == [4, 4, 1]
    weight, bias = (parameter.detach().double().numpy() for parameter in proxy.parameters())
    truth = softmax((inputs.double().numpy() @ weight.T + bias) / 2)
    found = torch.cat([targets for _, targets in batches])
    assert not found.requires_grad and np.allclose(found.numpy(), truth, atol=1e-6)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        yardstick(proxy, [inputs], 0)


def test_scores_are_the_squares_of_gradient_times_weight_by_batches() -> None:
    model, inputs = deep(), torch.randn(10, 6)
    batches = yardstick(deep(), inputs.split(5))
    context = Context(model=model, batches=batches)
    expected = np.zeros((3, 7))
    for x, targets in batches:
        hidden, logits = forward(model, x)
        slope = (softmax(logits) - targets.double().numpy()).T @ hidden / len(x)
        expected += (slope * model[2].weight.detach().double().numpy()) ** 2 / len(batches)
    found = score(model[2].weight, context.of("2.weight"))
    assert found.dtype == torch.float32 and found.shape == (3, 7)
    assert np.allclose(found.numpy(), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("block", [(1, 1), (2, 3), (7, 1), (1, 6)])
def test_rises_are_those_of_a_float64_computation_block_by_block(block: tuple[int, int]) -> None:
    model, inputs = deep(), torch.randn(10, 6)
    batches = yardstick(deep(), inputs.split(4))
    state = copy.deepcopy(model.state_dict())

    def loss(network: nn.Sequential) -> float:
        logs = [np.log(softmax(forward(network, x)[1])) for x, _ in batches]
        targets = [y.double().numpy() for _, y in batches]
        return -float((np.concatenate(logs) * np.concatenate(targets)).sum()) / 10

    found = block_rises(model[0].weight, Context(model=model, batches=batches, name="0.weight"), block)
    assert found.dtype == torch.float64
    for row in range(found.shape[0]):
        for col in range(found.shape[1]):
            without = copy.deepcopy(model)
            with torch.no_grad():
                high, wide = block
                without[0].weight[row * high : (row + 1) * high, col * wide : (col + 1) * wide] = 0
            assert float(found[row, col]) == pytest.approx(loss(without) - loss(model), abs=1e-6)
    assert found.shape == (-(-7 // block[0]), -(-6 // block[1]))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_dead_blocks_cost_nothing_and_masks_stay() -> None:
    model = deep()
    mask = torch.ones(7, 6, dtype=torch.bool)
    mask[:, 2:4] = False
    mask_(model[0], mask)
    context = Context(model=model, batches=yardstick(deep(), [torch.randn(8, 6)]), name="0.weight")
    rises = block_rises(model[0].weight, context, (7, 2))
    assert float(rises[0, 1]) == 0 and bool(rises[0, [0, 2]].all())
    assert torch.equal(model[0].weight != 0, mask)


def test_labels_that_are_not_probabilities_are_refused() -> None:
    model = deep()
    context = Context(model=model, batches=[(torch.randn(4, 6), torch.zeros(4, dtype=torch.int64))])
    for call in (score, lambda weight, context: block_rises(weight, context, (1, 1))):
        with pytest.raises(ValueError, match=r"as yardstick gives them: got targets of torch.int64"):
            call(model[0].weight, context.of("0.weight"))
    with pytest.raises(ValueError, match=r"Context\(model"):
        score(model[0].weight, Context(batches=yardstick(model, [torch.randn(4, 6)]), name="0.weight"))


def train(model: nn.Module, data: zoo.Data, iterations: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.2e-3, fused=True)
    for _ in range(iterations):
        chosen = torch.randint(len(data.train_y), (60,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.train_x[chosen]), data.train_y[chosen]).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: zoo.Data) -> float:
    return float((model(data.test_x).argmax(1) == data.test_y).float().mean())


def test_on_fashion_mnist_it_beats_random_pruning_at_equal_sparsity() -> None:
    """80 % of LeNet-300-100 goes: at once, and after the masks stay for 75 more iterations."""
    data = zoo.dataset("fashion-mnist-6k")
    shallow = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    train(shallow, data, 150, seed=0)
    dense = zoo.model("lenet300", torch.Generator().manual_seed(0))
    train(dense, data, 200, seed=0)
    context = Context(model=dense, batches=yardstick(shallow, data.train_x[:600].split(60)))
    reached = {}
    for kind in ("proxy", "random"):
        model = copy.deepcopy(dense)
        for name, layer in maskable(model).items():
            weight = layer.weight.detach()
            scores = (
                score(weight, context.of(f"{name}.weight")) if kind == "proxy" else torch.rand_like(weight)
            )
            mask_(layer, top_blocks(scores, (1, 1), round(0.2 * weight.numel())))
        at_once = accuracy(model, data)
        train(model, data, 75, seed=1)
        reached[kind] = (at_once, accuracy(model, data))
    assert reached["proxy"][0] > reached["random"][0] + 0.2
    assert reached["proxy"][1] > reached["random"][1]
