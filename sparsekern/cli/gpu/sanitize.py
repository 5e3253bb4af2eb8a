"""A few products under NVIDIA's compute-sanitizer, in a process of their own: run as a module, this is it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch

from sparsekern.cli.gpu.drawn import LINEAR, draw, draw_weight
from sparsekern.cli.gpu.processes import run_limited
from sparsekern.cli.gpu.setting import Setting
from sparsekern.kernels.table import BY_NAME

TOOLS = ("memcheck", "racecheck")
FOUND_SOMETHING = 99  # the exit code that the tool is told to give
LEAST_S = 10.0


def sanitize(setting: Setting) -> str:
    """What each of TOOLS said. RuntimeError with its first words if it found something."""
    if setting.device.type != "cuda":
        return "there is no GPU to watch"
    usual = Path("/usr/local/cuda/bin/compute-sanitizer")
    tool = shutil.which("compute-sanitizer") or (str(usual) if usual.exists() else None)
    if tool is None:
        return "compute-sanitizer is not on PATH"
    return "; ".join(f"{name}: {_watch(tool, name, setting.left_s)}" for name in TOOLS)


def _watch(tool: str, name: str, seconds: float) -> str:
    if seconds < LEAST_S:
        return "no time left"
    watched = [sys.executable, "-m", "sparsekern.cli.gpu.sanitize"]
    command = [tool, "--tool", name, "--error-exitcode", str(FOUND_SOMETHING), *watched]
    with tempfile.TemporaryFile("w+") as said:
        # Out of bounds of a tensor is within the allocator's blocks, unless it makes one for each.
        code = run_limited(command, seconds, stdout=said, env={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        said.seek(0)
        reports = [line.strip("= \n") for line in said if line.startswith("=========")]
    if code is None:
        return f"did not end within {seconds:.0f} s"
    if code == FOUND_SOMETHING:
        raise RuntimeError(f"{name}: {'; '.join(report for report in reports if report)[:300]}")
    return "nothing found" if code == 0 else f"could not run, exit code {code}: {reports[-1:]}"


def main() -> None:
    """Forward and both gradients, ragged, for few and for many rows."""
    device = torch.device("cuda")
    backend = BY_NAME[LINEAR].backend()
    for block in ((64, 64), (16, 16)):
        weight = draw_weight(device, 200, 136, block, 0.5)
        for m in (5, 100):
            x, grad = draw(device, m, weight.k), draw(device, m, weight.n)
            backend.run(x, weight)
            backend.grad_input(grad, weight)
            backend.grad_values(grad, x, weight)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
