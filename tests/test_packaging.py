"""What a user gets: a light import, types, a wheel, and a source package that holds what its build needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from try_wheels import faults

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this tree, around the extension as it was compiled before; tools/try_wheels.py compiles it anew."""
    folder = tmp_path_factory.mktemp("wheel")
    extension = find_spec("sparsekern._core")
    assert extension is not None and extension.origin is not None
    (folder / "lib" / "sparsekern").mkdir(parents=True)
    shutil.copy(extension.origin, folder / "lib" / "sparsekern")
    build = ("build", "--build-base", str(folder), "--build-lib", str(folder / "lib"))
    done = python("setup.py", "-q", *build, "bdist_wheel", "--dist-dir", str(folder), folder=ROOT)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Path:
    """Has the wheel; torch and what else is installed here shines through."""
    folder = wheel.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(packages)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def inside(environment: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python of an environment, where nothing but that leads to the package."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(environment / "bin" / "python"), *arguments]
    return subprocess.run(command, cwd=environment, env=clean, capture_output=True, text=True)


def test_a_wheel_holds_what_a_user_needs_and_nothing_else(wheel: Path) -> None:
    assert faults(wheel) == []


FORGED: tuple[tuple[Callable[[dict[str, bytes]], object], str], ...] = (
    (lambda files: files.pop("sparsekern/py.typed"), "sparsekern/py.typed: expected in the wheel"),
    (lambda files: [files.pop(n) for n in [*files] if "/_core." in n and "pyi" not in n], "an extension"),
    (lambda files: files.update({"tests/truth.py": b""}), "tests/truth.py: expected nothing"),
    (lambda files: files.update({"sparsekern/random": os.urandom(2_000_000)}), "less than 5 MB, got "),
)


@pytest.mark.parametrize("number", range(len(FORGED)))
def test_a_wheel_that_lacks_something_is_found_out(number: int, wheel: Path, tmp_path: Path) -> None:
    forge, words = FORGED[number]
    with zipfile.ZipFile(wheel) as content:
        files = {name: content.read(name) for name in content.namelist()}
    forge(files)
    with zipfile.ZipFile(tmp_path / wheel.name, "w", zipfile.ZIP_DEFLATED) as forged:
        for name, content_of in files.items():
            forged.writestr(name, content_of)
    (sentence,) = faults(tmp_path / wheel.name)
    assert words in sentence


@pytest.mark.slow  # without a cache mypy reads all of torch
def test_strict_types_hold_for_a_user_of_the_wheel(environment: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "snippet.py").write_text(SNIPPET)
    (tmp_path / "wrong.py").write_text(SNIPPET.replace("count: int =", "count: str ="))
    strict = ("-m", "mypy", "--strict", "--python-executable", str(environment / "bin" / "python"))
    done = python(*strict, "snippet.py", "wrong.py", folder=tmp_path)
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(found) == 1 and "wrong.py:" in found[0] and "[assignment]" in found[0], done.stdout


def test_the_source_package_holds_what_a_build_needs(tmp_path: Path) -> None:
    done = python("setup.py", "-q", "sdist", "--dist-dir", str(tmp_path), folder=ROOT)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as package:
        names = {name.partition("/")[2] for name in package.getnames()}
    tracked = [path for folder in ("csrc", "sparsekern") for path in (ROOT / folder).rglob("*")]
    kept = {".py", ".pyi", ".cpp", ".h", ".j2", ".typed", ".json", ".gz", ".npz"}
    missing = {path.relative_to(ROOT).as_posix() for path in tracked if path.suffix in kept} - names
    assert missing == set() and {"pyproject.toml", "setup.py", "LICENSE"} <= names


def test_a_wheel_is_tried_as_the_workflow_tries_it(environment: Path) -> None:
    config = (ROOT / "pyproject.toml").read_text("utf-8")
    command = re.search(r'test-command = "python \{project\}/(.*?)"', config)
    assert command is not None
    done = inside(environment, str(ROOT / command[1]))
    assert done.returncode == 0, done.stderr
    (where,) = re.findall(r"import: \d+ ms of CPU and \d+ modules more than torch; (.*)", done.stdout)
    assert Path(where).is_relative_to(environment)
