"""Let torchvision be imported where its compiled operators cannot be loaded, as in a wheel for another torch.

python tools/torchvision_operators.py examples/sentence_encoder.py --help

Its networks need none of them, but on import it looks for two; transformers and timm import it where it is
installed.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

import torch

_kept = []  # a library that is collected takes its operators along


def declare() -> None:
    """Declare what torchvision looks for, unless it is there or torchvision is not."""
    spec = importlib.util.find_spec("torchvision")
    if _kept or spec is None or spec.origin is None:
        return
    try:
        torch.ops.load_library(str(Path(spec.origin).parent / "_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)


if __name__ == "__main__":
    declare()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
