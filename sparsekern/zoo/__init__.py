"""The zoo: networks and data sets of the papers, one file and one line in a table each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsekern.zoo import (
    alexnet,
    cifar,
    convnets,
    lenet300,
    libraries,
    resnet,
    sources,
    text,
    transformer,
    vgg,
)
from sparsekern.zoo.augment import AUGMENTATIONS, augment
from sparsekern.zoo.images import Data

__all__ = ["AUGMENTATIONS", "DATASETS", "MODELS", "Data", "augment", "dataset", "example", "model"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet300": lenet300.LeNet300,
    "conv2": convnets.Conv2,
    "conv4": convnets.Conv4,
    "conv6": convnets.Conv6,
    "resnet20": resnet.ResNet20,
    "vgg16": vgg.VGG16,
    "vgg19": vgg.VGG19,
    "resnet18": resnet.ResNet18,
    "alexnet": alexnet.AlexNet,
    "transformer": transformer.Transformer,
}
"""name -> network, made of a generator. Each says its number of `classes` and what it takes: the shape of an
`image`, or as many symbols as its `context`."""

DATASETS: dict[str, Callable[[str | Path | None], Data]] = {
    "fashion-mnist-6k": sources.fashion_mnist_6k,
    "fashion-mnist": sources.fashion_mnist,
    "mnist": sources.mnist,
    "cifar10": cifar.cifar10,
    "tiny-shakespeare": text.tiny_shakespeare,
}


OPTIONS = ("width", "dropout")
"""What a network may be asked for besides its generator; which of them it knows, its class says."""


def model(name: str, generator: torch.Generator | None = None, **options: Any) -> nn.Module:
    """A new network, its weights drawn by `generator`.

    name: one of MODELS, or "torchvision:NAME" or "timm:NAME" for one of theirs (extra "models").
    options: `width`, a factor on all hidden sizes, for a narrower dense network; `dropout`, a rate. Networks
    of libraries have `classes` and `image` (channels, height, width) instead.
    ValueError for an unknown name, an option that the network does not have, or a library that is missing.
    """
    if name.partition(":")[0] in libraries.LIBRARIES:
        made: Callable[..., nn.Module] = partial(libraries.from_library, name)
        known = ["classes", "image"]
    elif name in MODELS:
        made = MODELS[name]
        known = [option for option in OPTIONS if option in inspect.signature(made).parameters]
    else:
        raise ValueError(
            f"unknown model {name!r}: expected one of {list(MODELS)}, "
            f"or one of {list(libraries.LIBRARIES)} with a colon and its name there"
        )
    if unknown := set(options) - set(known):
        raise ValueError(f"{name} has no option {sorted(unknown)}: expected some of {known}")
    return made(generator, **options)


def example(model: nn.Module, rows: int, generator: torch.Generator | None = None) -> Tensor:
    """Random inputs of a network of the zoo: images float32 (rows, *image), or symbols int64 (rows, context)
    if it is one of text."""
    kind: Any = model
    if hasattr(model, "context"):
        return torch.randint(kind.classes, (rows, kind.context), generator=generator)
    return torch.randn(rows, *kind.image, generator=generator)


def dataset(name: str, data_dir: str | Path | None = None) -> Data:
    """A data set of DATASETS, from `data_dir` or from where it is found (`sparsekern.zoo.places`).

    ValueError for an unknown name, and when the files are missing, broken or of another data set.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: expected one of {list(DATASETS)}")
    return DATASETS[name](data_dir)
