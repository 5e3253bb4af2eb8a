"""Prune LeNet-300-100 on Fashion-MNIST-6k by several families of methods, all to the same sparsity.

python examples/families.py --sparsity 0.9

Each network is trained, pruned layer by layer, and trained on with its zeros in place, in the same number of
iterations. Without a choice of settings by validation this shows how the parts are used, not who is best.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsekern import zoo
from sparsekern.masks import mask_, maskable, sparsity
from sparsekern.prune import Context, top_blocks
from sparsekern.prune.fista import Fista, penalised
from sparsekern.prune.freeze import frozen_step_
from sparsekern.prune.proxy import score, yardstick

DATA = zoo.dataset("fashion-mnist-6k")
Step = Callable[[], object]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, step: Step, iterations: int = 400) -> None:
    """Batches of 60, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(iterations):
        chosen = torch.randint(len(DATA.train_y), (60,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(DATA.train_x[chosen]), DATA.train_y[chosen]).backward()
        step()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1.2e-3, fused=True)


def plain() -> nn.Module:
    model = zoo.model("lenet300", torch.Generator().manual_seed(0))
    optimizer = adam(model)
    train(model, optimizer, optimizer.step)
    return model


def frozen() -> nn.Module:
    model = zoo.model("lenet300", torch.Generator().manual_seed(0))
    optimizer = adam(model)
    weights = [layer.weight for layer in maskable(model).values()]
    train(model, optimizer, lambda: frozen_step_(optimizer, weights, 0.3))
    return model


def proximal(block: tuple[int, int]) -> nn.Module:
    model = zoo.model("lenet300", torch.Generator().manual_seed(0))
    optimizer = Fista(penalised(model, 2e-4, block), lr=0.05)
    train(model, optimizer, optimizer.step)
    optimizer.settle_()
    return model


def magnitude(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.weight.detach().abs() for name, layer in maskable(model).items()}


def chance(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.rand(layer.weight.shape) for name, layer in maskable(model).items()}


def by_proxy(model: nn.Module) -> dict[str, Tensor]:
    shallow = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    optimizer = adam(shallow)
    train(shallow, optimizer, optimizer.step)
    context = Context(model=model, batches=yardstick(shallow, DATA.train_x[:1200].split(60)))
    layers = maskable(model).items()
    return {name: score(layer.weight.detach(), context.of(f"{name}.weight")) for name, layer in layers}


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    return float((model(DATA.test_x).argmax(1) == DATA.test_y).double().mean())


def main() -> None:
    """Print a line for each family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsity", type=float, default=0.9)
    wanted = parser.parse_args().sparsity
    families: dict[
        str, tuple[Callable[[], nn.Module], Callable[[nn.Module], dict[str, Tensor]], tuple[int, int]]
    ] = {
        "magnitude": (plain, magnitude, (1, 1)),
        "stochastic freezing, magnitude": (frozen, magnitude, (1, 1)),
        "FISTA, magnitude": (lambda: proximal((1, 1)), magnitude, (1, 1)),
        "sequential: a shallow proxy": (plain, by_proxy, (1, 1)),
        "random": (plain, chance, (1, 1)),
        "magnitude, blocks of 16": (plain, magnitude, (16, 1)),
        "FISTA, magnitude, blocks of 16": (lambda: proximal((16, 1)), magnitude, (16, 1)),
    }
    print(f"{'family':32}  dense  sparse: at once  trained on  sparsity")
    for name, (make, rank, block) in families.items():
        model = make()
        dense = accuracy(model)
        for layer, scores in rank(model).items():
            module = model.get_submodule(layer)
            high = -(-scores.shape[0] // block[0])
            mask_(module, top_blocks(scores, block, round(high * scores.shape[1] * (1 - wanted))))
        at_once = accuracy(model)
        optimizer = adam(model)
        train(model, optimizer, optimizer.step)
        print(f"{name:32}  {dense:.3f}  {at_once:15.3f}  {accuracy(model):10.3f}  {sparsity(model):8.3f}")


if __name__ == "__main__":
    main()
