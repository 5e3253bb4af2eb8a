"""Networks of others in torch.compile, torch.export, AOTInductor and ONNX: what docs/export.md says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from other_networks import call, check_same, masked
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import sparsekern as sk


def swapped(name: str) -> tuple[nn.Module, object]:
    model, inputs = masked(name, (16, 1))
    assert sk.swap_(model, inputs, threshold=0.5).swapped
    return model, inputs


def resized(inputs: object, batch: int) -> object:
    """The same inputs for another batch."""
    if isinstance(inputs, dict):
        return {key: resized(value, batch) for key, value in inputs.items()}
    assert isinstance(inputs, Tensor)
    return inputs[:1].repeat(batch, *[1] * (inputs.dim() - 1))


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["timm resnet", "BERT", pytest.param("Llama", marks=pytest.mark.slow)])
@torch.no_grad()
def test_one_graph_and_no_more_after_the_second_batch(name: str) -> None:
    model, inputs = swapped(name)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for batch in (2, 3, 5):
        given = resized(inputs, batch)
        check_same(call(compiled, given), call(model, given))
        assert counter.frame_count <= 1 + (batch > 2)


def test_gradients_through_a_compiled_network() -> None:
    model, x = swapped("timm resnet")
    x = x.requires_grad_()
    want = torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(x).square().sum(), [x, *model.parameters()])
    largest = max(grad.abs().max().item() for grad in want)
    assert largest > 0
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.slow
@torch.no_grad()
def test_inductor() -> None:
    model, inputs = swapped("DistilBERT")
    check_same(call(torch.compile(model, fullgraph=True), inputs), call(model, inputs))


def run_elsewhere(folder: Path, load: str, package: str) -> subprocess.CompletedProcess[str]:
    """Load model.pt2 in a process that imports torch and a package, and compare with expected.pt."""
    script = (
        f"import torch{package}; x, want = torch.load('expected.pt'); model = {load}('model.pt2');"
        "got = getattr(model, 'module', lambda: model)()(x);"
        "assert torch.allclose(got, want, rtol=1e-4, atol=1e-5)"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(sk.__file__).parents[1])}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True)


def check_elsewhere(folder: Path, load: str) -> None:
    """It runs where sparsekern is imported, and is refused where it is not."""
    run = run_elsewhere(folder, load, ", sparsekern")
    assert run.returncode == 0, run.stderr
    run = run_elsewhere(folder, load, "")
    assert run.returncode != 0 and "sparsekern" in run.stderr


@torch.no_grad()
def test_export_round_trip(tmp_path: Path) -> None:
    """Saved here, run here and in another process, for another batch."""
    model, x = swapped("timm convnext")
    batch, file = torch.export.Dim("batch", min=2), tmp_path / "model.pt2"
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: batch},)), file)
    more = resized(x, 5)
    want = call(model, more)
    check_same(torch.export.load(file).module()(more), want)
    torch.save((more, want), tmp_path / "expected.pt")
    check_elsewhere(tmp_path, "torch.export.load")


@pytest.mark.slow
@torch.no_grad()
def test_aot_inductor(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 32))
    sk.prune.prune_(model, 0.9, block=(16, 1))
    x, file = torch.randn(4, 8, 8, 8), str(tmp_path / "model.pt2")
    assert len(sk.swap_(model, threshold=0.5).swapped) == 2
    torch._inductor.aoti_compile_and_package(torch.export.export(model, (x,)), package_path=file)
    check_same(torch._inductor.aoti_load_package(file)(x), model(x))
    torch.save((x, model(x)), tmp_path / "expected.pt")
    check_elsewhere(tmp_path, "torch._inductor.aoti_load_package")


@torch.no_grad()
def test_onnx_is_dense(tmp_path: Path) -> None:
    """`restore_` first, masks baked in: the file has plain weights, and computes the same."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x = swapped("torchvision vgg")
    want, file = model(x), tmp_path / "model.onnx"
    sk.restore_(model)
    torch.onnx.export(model, (x,), file, dynamo=True, external_data=False, verbose=False)
    graph = onnx.load(file).graph
    assert {node.domain for node in graph.node} == {""}
    shapes = [tuple(tensor.dims) for tensor in graph.initializer]
    assert all(tuple(p.shape) in shapes for p in model.state_dict().values() if p.dim() == 4)
    (got,) = runtime.InferenceSession(file).run(None, {graph.input[0].name: x.numpy()})
    check_same(torch.from_numpy(got), want)


def test_onnx_of_a_swapped_network_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = nn.Sequential(sk.SparseLinear.from_dense(nn.Linear(16, 16))).eval()
    with pytest.raises(torch.onnx.errors.OnnxExporterError, match="sparsekern"):
        torch.onnx.export(model, (torch.randn(2, 16),), tmp_path / "m.onnx", dynamo=True, verbose=False)
