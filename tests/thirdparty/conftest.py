"""Other people's packages load on any build of torch, and fetch nothing."""

from __future__ import annotations

import os

import torchvision_operators

os.environ["HF_HUB_OFFLINE"] = "1"
torchvision_operators.declare()
