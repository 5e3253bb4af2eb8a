"""fuse_ in a torch.fx graph: shared modules, functions, residuals; and what must not be folded there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import sparsekern as sk

Forward = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Convolutions, one ReLU for all places, and the way through them that a test wants."""

    def __init__(self, way: Forward) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(8) for _ in range(3))
        self.relu, self.pool, self.way = nn.ReLU(), nn.AdaptiveAvgPool2d(1), way
        for norm in (self.bn1, self.bn2, self.bn3):
            nn.init.normal_(norm.bias)
            nn.init.uniform_(norm.weight, 0.3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 8, 7, 6)


def swapped(way: Forward) -> fx.GraphModule:
    model = Net(way).eval()
    sk.prune.prune_(model, 0.6)
    graph = fx.symbolic_trace(model)
    assert sk.swap_(graph, threshold=0.3, block=(1, 1)).swapped
    return graph


def residual_blocks(net: Any, x: Tensor) -> Tensor:
    """As in a ResNet: what is added comes before the convolution, then after it."""
    y = net.relu(net.bn1(net.conv1(x)))
    y = net.relu(net.bn2(net.conv2(y)) + x)
    z: Tensor = net.relu(net.conv3(y) + net.bn3(x))
    return z


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_shared_relu_and_what_is_added_become_part_of_the_layer() -> None:
    graph = swapped(residual_blocks)
    x, more = images(), images(5)
    want, more_of_it = graph(x), graph(more)
    report = sk.fuse_(graph, x)
    assert [layer.folded for layer in report.layers] == [
        ("bn1", "folded_relu"),
        ("bn2", "folded_add", "folded_relu_1"),
        ("folded_add_1", "folded_relu_2"),
    ]
    assert not {"relu", "add"} & {str(node.target) for node in graph.graph.nodes}
    assert all(type(graph.get_submodule(name)) is nn.Identity for name in report.folded)
    close(graph(x), want)  # with a gradient
    with torch.no_grad():
        close(graph(x), want)
        close(graph(more), more_of_it)
        last = torch.channels_last
        close(graph(x.contiguous(memory_format=last)), want)
    assert sk.fuse_(graph, x).folded == ()


def test_without_inputs_no_addition_is_folded() -> None:
    graph = swapped(residual_blocks)
    x = images()
    want = graph(x)
    report = sk.fuse_(graph)
    close(graph(x), want)
    assert [layer.folded for layer in report.layers] == [("bn1", "folded_relu"), ("bn2",), ()]
    assert "with example_inputs only" in report.layers[1].reason


def twice(net: Any, x: Tensor) -> Tensor:
    return F.gelu(F.gelu(net.conv1(x)))


def added_after_a_write(net: Any, x: Tensor) -> Tensor:
    x = x * 1
    y: Tensor = net.conv1(x)
    return y + x.mul_(2)


def read_in_two_places(net: Any, x: Tensor) -> Tensor:
    y: Tensor = net.conv1(x)
    return y.relu() + y


WAYS: dict[str, tuple[Forward, tuple[str, ...], str]] = {
    "function": (lambda net, x: F.relu(net.conv1(x)), ("folded_relu",), ""),
    "method": (lambda net, x: net.conv1(x).relu_(), ("folded_relu_",), ""),
    "gelu": (twice, ("folded_gelu",), ""),
    "tanh": (lambda net, x: F.gelu(net.conv1(x), approximate="tanh"), (), "gelu follows"),
    "number": (lambda net, x: net.conv1(x) + 1, (), "add follows"),
    "scaled": (lambda net, x: torch.add(net.conv1(x), x, alpha=2), (), "add follows"),
    "broadcast": (lambda net, x: net.conv1(x) + net.pool(x), (), "of another size or dtype"),
    "written": (added_after_a_write, (), "mul_, between it and the addition, may write over its input"),
    "read": (read_in_two_places, (), "its output goes to 2 places"),
    "module": (lambda net, x: net.pool(net.conv1(x)), (), "pool follows, which cannot be folded"),
}


@pytest.mark.parametrize("name", WAYS)
@torch.no_grad()
def test_what_is_folded_computes_the_same(name: str) -> None:
    way, folded, reason = WAYS[name]
    graph = swapped(way)
    x = images()
    want = graph(x)
    first = sk.fuse_(graph, x).layers[0]
    assert first.folded == folded and reason in first.reason and bool(reason) != bool(folded)
    close(graph(x), want)


def test_an_activation_with_a_hook_stays() -> None:
    graph = swapped(lambda net, x: net.relu(net.relu(net.conv1(x))))
    graph.relu.register_forward_hook(lambda module, args, output: output + 1)
    x = images()
    want = graph(x)
    assert sk.fuse_(graph, x).folded == ()
    assert torch.equal(graph(x), want)


def test_inputs_by_name_and_left_out() -> None:
    class Named(Net):
        def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:  # type: ignore[override]
            z: Tensor = (self.conv1(x) + y) * scale
            return z

    model = Named(residual_blocks).eval()
    sk.prune.prune_(model, 0.6)
    graph, x, y = fx.symbolic_trace(model), images(), images()
    sk.swap_(graph, threshold=0.3)
    want = graph(x, y)
    assert sk.fuse_(graph, {"y": y, "x": x}).folded == ("folded_add",)
    close(graph(x, y), want)


def test_a_file_fits_only_what_is_folded_alike(tmp_path: Path) -> None:
    file, x = tmp_path / "net.safetensors", images()
    graph, plain = swapped(residual_blocks), fx.symbolic_trace(Net(residual_blocks).eval())
    same, dense = swapped(residual_blocks), Net(residual_blocks).eval()
    sk.fuse_(graph, x)
    sk.save(copy.deepcopy(graph), file)
    for other in (plain, dense):
        with pytest.raises(ValueError, match=r"folded_\w+: an nn\.Identity in the file; expected one"):
            sk.load(other, file)
    sk.fuse_(same, x)
    assert torch.equal(sk.load(same, file)(x), graph(x))


def test_a_layer_with_a_residual_is_not_restored() -> None:
    graph, x = swapped(residual_blocks), images()
    sk.fuse_(graph, x)
    want = graph(x)
    with pytest.raises(
        ValueError, match=r"conv2 is called with a residual, which an nn\.Conv2d does not take"
    ):
        sk.restore_(graph)
    assert torch.equal(graph(x), want)
