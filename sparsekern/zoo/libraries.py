"""Networks of torchvision and timm by name, with random weights: nothing is downloaded (extra "models")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Image = tuple[int, int, int]


def torchvision(name: str, classes: int | None, image: Image | None) -> tuple[nn.Module, int, Image]:
    """(network, classes, image) of a classifier of torchvision; ValueError for a name that it has not.

    What is not asked for is as in the weights that it publishes. Its networks take 3 channels.
    """
    import torchvision

    models: Any = torchvision.models  # with and without it installed, types are checked alike
    if name not in models.list_models(module=models):
        raise ValueError(f"torchvision has no classifier {name!r}: see torchvision.models.list_models()")
    published = models.get_model_weights(name).DEFAULT
    side = published.transforms.keywords["crop_size"]
    image = image or (3, side, side)
    if image[0] != 3:
        raise ValueError(f"torchvision:{name}: images of 3 channels are expected, got {image}")
    options: dict[str, Any] = {"image_size": image[1]} if name.startswith("vit_") else {}
    classes = classes or len(published.meta["categories"])
    return models.get_model(name, weights=None, num_classes=classes, **options), classes, image


def timm(name: str, classes: int | None, image: Image | None) -> tuple[nn.Module, int, Image]:
    """(network, classes, image) of a network of timm; ValueError for a name that it has not.

    What is not asked for is as in the weights that it publishes.
    """
    import timm

    library: Any = timm  # with and without it installed, types are checked alike
    if not library.is_model(name):
        raise ValueError(f"timm has no network {name!r}: see timm.list_models()")
    published = library.get_pretrained_cfg(name)
    options: dict[str, Any] = {}
    if image is not None:
        options["in_chans"] = image[0]
        if published.fixed_input_size:
            options["img_size"] = image[1:]
    if classes is not None:
        options["num_classes"] = classes
    model = library.create_model(name, pretrained=False, **options)
    return model, classes or published.num_classes, image or tuple(published.input_size)


LIBRARIES: dict[str, Callable[[str, int | None, Image | None], tuple[nn.Module, int, Image]]] = {
    "torchvision": torchvision,
    "timm": timm,
}
"""The part of a name such as "timm:resnet18" that stands before the colon -> who makes it."""


def from_library(
    name: str,
    generator: torch.Generator | None = None,
    *,
    classes: int | None = None,
    image: Image | None = None,
) -> nn.Module:
    """The network called e.g. "torchvision:resnet18", with attributes `classes` and `image`.

    generator: draws a seed for the weights, which the libraries draw from torch's own generator; its state is
    put back. None draws from there as it is. classes, image (channels, height, width): None is as published.
    ValueError for an unknown name, and if the library is not installed.
    """
    library, _, own = name.partition(":")
    try:
        with _seeded(generator):
            made: Any
            made, classes, image = LIBRARIES[library](own, classes, image)
    except ModuleNotFoundError as error:
        raise ValueError(f'{name}: {error}; pip install "sparsekern[models]"') from error
    made.classes, made.image = classes, image
    model: nn.Module = made
    return model


@contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    if generator is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        seed = int(torch.randint(2**62, (), generator=generator))
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed GPUs too
        yield
