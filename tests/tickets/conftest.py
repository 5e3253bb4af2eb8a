"""What the tests of tickets share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparsekern import zoo


@pytest.fixture(scope="session")
def data() -> zoo.Data:
    """The small set with 300 images to train on."""
    small = zoo.dataset("fashion-mnist-6k")
    return replace(small, train_x=small.train_x[:300], train_y=small.train_y[:300])
