"""What a user gets: a light import, types, and a source package that holds what its build needs."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = (
    "triton",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "jinja2",
    "sklearn",
    "scipy",
    "tqdm",
    "pooch",
    "PIL",
    "sparsekern.prune",
    "sparsekern.tickets",
    "sparsekern.zoo",
)
HEAVY += (
    "torchvision",
    "timm",
    "transformers",
    "torch_pruning",
    "pandas",
    "torch._dynamo",
    "torch._inductor",
)
IMPORT = f"""
import sys
import torch
before = set(sys.modules)
for blocked in ("sparsekern._core", "triton"):  # no compiler, no GPU
    sys.modules[blocked] = None
import sparsekern as sk
added = set(sys.modules) - before
print(sorted(name for name in added if name.startswith({HEAVY!r}) and sys.modules[name]))
print(len([name for name in added if not name.startswith("sparsekern")]))
linear, x = torch.nn.Linear(16, 16), torch.ones(1, 16)
for kind in (sk.SparseLinear, sk.nn.QuantizedSparseLinear):
    try:
        with torch.no_grad():
            kind.from_dense(linear)(x)
    except ImportError as error:
        print(error)
"""

SNIPPET = """
import torch

import sparsekern as sk

model = torch.nn.Sequential(torch.nn.Linear(784, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 10))
x = torch.randn(256, 784)
sk.prune.prune_(model, sparsity=0.9, block=(16, 1))
report: sk.SwapReport = sk.swap_(model, x)
names: list[str] = [layer.name for layer in report.swapped]
speedup: float | None = None if report.speedup is None else report.speedup.value
print(report, sk.explain(model))
sk.fuse_(model)
sk.save(model, "net.safetensors")
model = sk.load(model, "net.safetensors")
count: int = sk.restore_(model)
layer: sk.SparseLinear = sk.SparseLinear.from_dense(torch.nn.Linear(8, 8), block=None)
"""


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)


def test_the_import_is_light_and_needs_no_compiler_and_no_triton() -> None:
    done = python("-c", IMPORT, folder=ROOT)
    heavy, others, *sentences = done.stdout.splitlines() or pytest.fail(done.stderr)
    assert heavy == "[]"
    assert int(others) <= 30, "modules of others, beyond torch's"
    assert len(sentences) == 2
    for sentence in sentences:
        assert re.match(r"kernels on the CPU are in sparsekern\._core, which does not load here", sentence)


@pytest.mark.slow  # without a cache mypy reads all of torch
def test_strict_types_hold_for_a_user(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "snippet.py").write_text(SNIPPET)
    (tmp_path / "wrong.py").write_text(SNIPPET.replace("count: int =", "count: str ="))
    files = (str(tmp_path / "snippet.py"), str(tmp_path / "wrong.py"))
    done = python("-m", "mypy", *files, folder=ROOT)  # with the settings and the cache of `make lint`
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(found) == 1 and "wrong.py:" in found[0] and "[assignment]" in found[0], done.stdout
    assert (ROOT / "sparsekern" / "py.typed").exists()


def test_the_source_package_holds_what_a_build_needs(tmp_path: Path) -> None:
    done = python("setup.py", "-q", "sdist", "--dist-dir", str(tmp_path), folder=ROOT)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as package:
        names = {name.partition("/")[2] for name in package.getnames()}
    tracked = [path for folder in ("csrc", "sparsekern") for path in (ROOT / folder).rglob("*")]
    kept = {".py", ".pyi", ".cpp", ".h", ".j2", ".typed", ".json", ".gz", ".npz"}
    missing = {path.relative_to(ROOT).as_posix() for path in tracked if path.suffix in kept} - names
    assert missing == set() and {"pyproject.toml", "setup.py", "LICENSE"} <= names


def test_a_wheel_is_tried_as_the_workflow_tries_it() -> None:
    config = (ROOT / "pyproject.toml").read_text("utf-8")
    command = re.search(r'test-command = "python \{project\}/(.*?)"', config)
    assert command is not None
    done = python("-c", f"import runpy; runpy.run_path({command[1]!r}, run_name='__main__')", folder=ROOT)
    assert done.returncode == 0, done.stderr
    assert "modules more than torch" in done.stdout
