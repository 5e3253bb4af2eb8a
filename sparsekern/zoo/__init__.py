"""The zoo: networks and data sets of the papers, one file and one line in a table each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from sparsekern.zoo import alexnet, cifar, convnets, lenet300, resnet, sources, text, vgg
from sparsekern.zoo.images import Data

__all__ = ["DATASETS", "MODELS", "Data", "dataset", "model"]

MODELS: dict[str, Callable[[torch.Generator | None], nn.Module]] = {
    "lenet300": lenet300.LeNet300,
    "conv2": convnets.Conv2,
    "conv4": convnets.Conv4,
    "conv6": convnets.Conv6,
    "resnet20": resnet.ResNet20,
    "vgg16": vgg.VGG16,
    "vgg19": vgg.VGG19,
    "resnet18": resnet.ResNet18,
    "alexnet": alexnet.AlexNet,
}
"""name -> network. Each says the shape of an `image` that it takes and its number of `classes`."""

DATASETS: dict[str, Callable[[str | Path | None], Data]] = {
    "fashion-mnist-6k": sources.fashion_mnist_6k,
    "fashion-mnist": sources.fashion_mnist,
    "mnist": sources.mnist,
    "cifar10": cifar.cifar10,
    "tiny-shakespeare": text.tiny_shakespeare,
}


def model(name: str, generator: torch.Generator | None = None) -> nn.Module:
    """A new network of MODELS, its weights drawn by `generator`; ValueError for an unknown name."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: expected one of {list(MODELS)}")
    return MODELS[name](generator)


def dataset(name: str, data_dir: str | Path | None = None) -> Data:
    """A data set of DATASETS, from `data_dir` or from where it is found (`sparsekern.zoo.places`).

    ValueError for an unknown name, and when the files are missing, broken or of another data set.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: expected one of {list(DATASETS)}")
    return DATASETS[name](data_dir)
