"""torchvision beside a build of torch that its compiled operators do not fit: what it looks for on import."""

from __future__ import annotations

import torch

LIBRARIES = []  # a library ends with its last reference, and takes its operators along


def define() -> None:
    """Declare the two operators that torchvision's import gives a shape to; no network calls them."""
    if hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARIES.append(library)
