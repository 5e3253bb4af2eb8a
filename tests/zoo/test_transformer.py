"""The Transformer: exact sizes, no look ahead, and that it is the formula."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.masks import maskable


def transformer(seed: int = 0, **options: float) -> nn.Module:
    return zoo.model("transformer", torch.Generator().manual_seed(seed), **options).eval()


def test_826433_parameters_of_which_794752_are_weights_of_linear_layers() -> None:
    model = transformer()
    weights = {name: layer.weight.numel() for name, layer in maskable(model).items()}
    assert len(weights) == 4 * 6 + 1 and list(weights)[-1] == "head"  # the last is the output layer
    assert sum(weights.values()) == 4 * (4 * 128**2 + 2 * 128 * 512) + 128 * 65 == 794_752
    tables, norms, biases = (65 + 128) * 128, 9 * 2 * 128, 4 * (5 * 128 + 512) + 65
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == 794_752 + tables + norms + biases == 826_433


def test_no_place_sees_a_later_one() -> None:
    model = transformer()
    x = zoo.example(model, 2, torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 50:] = (x[:, 50:] + 1) % 65
    with torch.inference_mode():
        first, second = model(x), model(other)
    torch.testing.assert_close(first[:, :50], second[:, :50])
    assert (first[:, 50:] - second[:, 50:]).abs().amax((0, 2)).min() > 1e-4


def test_it_is_the_formula() -> None:
    model = transformer().double()
    x = torch.arange(12).reshape(2, 6) % 65
    state = model.state_dict()

    def dense(name: str, y: Tensor) -> Tensor:
        return y @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, y: Tensor) -> Tensor:
        centred = y - y.mean(2, keepdim=True)
        scaled = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    y = state["symbols.weight"][x] + state["positions.weight"][:6]
    for block in (f"blocks.{index}" for index in range(4)):
        inner = norm(f"{block}.norm1", y)
        query, key, value = (dense(f"{block}.{part}", inner) for part in ("query", "key", "value"))
        heads = []
        for head in range(4):
            own = slice(32 * head, 32 * head + 32)
            fits = query[..., own] @ key[..., own].transpose(1, 2) / math.sqrt(32)
            fits = fits.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
            heads.append(fits.softmax(2) @ value[..., own])
        y = y + dense(f"{block}.out", torch.cat(heads, 2))
        inner = dense(f"{block}.up", norm(f"{block}.norm2", y))
        y = y + dense(f"{block}.down", inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))
    torch.testing.assert_close(model(x), dense("head", norm("norm", y)))


def test_the_generator_decides_everything_and_no_other_is_touched() -> None:
    state = torch.get_rng_state()
    first, again, other = transformer(1), transformer(1), transformer(2)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        drawn = name.endswith("weight") and "norm" not in name
        assert torch.equal(value, other.state_dict()[name]) != drawn, name


def test_it_starts_at_the_loss_of_guessing() -> None:
    model = transformer()
    data = zoo.example(model, 4, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        loss = nn.functional.cross_entropy(model(data).flatten(0, 1), data.flatten())
    assert abs(float(loss) - math.log(65)) < 0.1
    for name, layer in maskable(model).items():
        deviation = 0.02 / math.sqrt(8) if name.endswith(("out", "down")) else 0.02
        assert abs(float(layer.weight.detach().std()) / deviation - 1) < 0.05, name
