"""Augmentation: other views of the same images, drawn anew for each batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PAD = 4


def none(x: Tensor, generator: torch.Generator) -> Tensor:
    """The images as they are; nothing is drawn."""
    return x


def flip_crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each of the images (m, c, h, w) mirrored or not, and moved by up to 4 pixels either way.

    He et al. 2015, arXiv 1512.03385, section 4.2: padded by 4 pixels of zeros on each side, which is the mean
    colour of normalised images, and cropped to the old size at a random place. `generator`, on the CPU,
    decides alone, in three draws of m values; x may be on any device.
    """
    count, _, high, wide = x.shape
    mirrored = torch.randint(2, (count,), generator=generator).bool().to(x.device)
    tops, lefts = (torch.randint(2 * PAD + 1, (count,), generator=generator).to(x.device) for _ in range(2))
    padded = torch.nn.functional.pad(x, (PAD,) * 4)
    places = padded.unfold(2, high, 1).unfold(3, wide, 1)  # a view (m, c, tops, lefts, h, w)
    cropped = places[torch.arange(count, device=x.device), :, tops, lefts]
    return torch.where(mirrored[:, None, None, None], cropped.flip(3), cropped)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": none,
    "flip-crop": flip_crop,
}
"""name -> augment(x, generator), which leaves x as it is."""


def augment(name: str, x: Tensor, generator: torch.Generator) -> Tensor:
    """The images x (m, c, h, w) under an augmentation of AUGMENTATIONS; ValueError for an unknown name."""
    if name not in AUGMENTATIONS:
        raise ValueError(f"unknown augmentation {name!r}: expected one of {list(AUGMENTATIONS)}")
    return AUGMENTATIONS[name](x, generator)
