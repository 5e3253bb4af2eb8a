"""Tries an installed sparsekern, wheel or not, without the tests: prune, swap, save, load.

python tools/smoke_wheel.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn


def network() -> nn.Module:
    """One layer of each kind that is swapped."""
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 64)).eval()


def main() -> None:
    """Prints the version and what its import took; an AssertionError says what is wrong."""
    before, began = set(sys.modules), time.process_time()
    import sparsekern as sk

    took_ms = (time.process_time() - began) * 1e3
    added = len(set(sys.modules) - before)
    print(f"sparsekern {sk.__version__}, Python {sys.version.split()[0]}, torch {torch.__version__}")
    print(f"import: {took_ms:.0f} ms of CPU and {added} modules more than torch; {sk.__file__}")
    model, x = network(), torch.randn(4, 3, 8, 8)
    sk.prune.prune_(model, sparsity=0.9, block=(16, 1))
    with torch.no_grad():
        wanted = model(x)
        report = sk.swap_(model, threshold=0.5)
        assert len(report.swapped) == 2, report
        torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)
        with tempfile.TemporaryDirectory() as folder:
            sk.save(model, Path(folder) / "net.safetensors")
            other = sk.load(network(), Path(folder) / "net.safetensors")
        assert torch.equal(other(x), model(x))
    print(sk.explain(model))


if __name__ == "__main__":
    main()
