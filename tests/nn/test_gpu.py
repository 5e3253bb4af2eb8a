"""What `swap_` does otherwise on a GPU, as far as it can be seen without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import sparsekern as sk
from sparsekern.bench.cuda import HostClock
from sparsekern.kernels.table import BY_NAME
from sparsekern.kernels.triton import cache, tune
from sparsekern.nn import layer, measure


def weight_on(device: str, *shape: int) -> Any:
    return SimpleNamespace(device=torch.device(device), shape=torch.Size(shape), dtype=torch.float32)


def test_blocks_are_those_of_the_device() -> None:
    on_gpu = sk.SparseLinear.fitting_blocks(weight_on("cuda", 1280, 5120))
    assert on_gpu[0] == (128, 128) and on_gpu[-1] == (16, 16) and len(set(on_gpu)) == 16
    assert on_gpu == sorted(on_gpu, reverse=True)
    of_float32 = [block for block in sk.SparseLinear.blocks if block[1] == 1]
    assert sk.SparseLinear.fitting_blocks(weight_on("cpu", 1280, 5120)) == of_float32


def test_blocks_on_a_gpu_are_not_clipped() -> None:
    """A kernel takes no other sides: (20, 16) would be left to the reference."""
    small = sk.SparseLinear.fitting_blocks(weight_on("cuda", 20, 70))
    assert small == [(16, 64), (16, 32), (16, 16)]
    assert sk.SparseConv2d.fitting_blocks(weight_on("cuda", 64, 3, 7, 7))[0] == (64, 128)
    tiny = sk.SparseLinear.fitting_blocks(weight_on("cuda", 10, 70))
    assert tiny == sk.SparseLinear.fitting_blocks(weight_on("cpu", 10, 70)), "there are none"


def test_what_is_worth_timing_on_a_gpu_is_what_the_cost_function_expects_to_win() -> None:
    from sparsekern.kernels import Problem
    from sparsekern.kernels.cost import relative_cost

    def expected(block: tuple[int, int], density: float) -> float:
        sizes = (4096, 4096, 4096, density, ("triton",))
        problem = Problem("linear", "cuda", "sm_90", "bfloat16", block, *sizes)
        return relative_cost("triton_linear", problem)

    assert all(expected(block, 1.0) > measure.HOPELESS["cuda"] for block in layer.GPU_BLOCKS)
    assert all(expected(block, 0.3) < measure.HOPELESS["cuda"] for block in layer.GPU_BLOCKS)


def test_calls_are_launched_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def interleave_cuda(calls: Any, **settings: Any) -> tuple[dict[str, str], dict[str, str]]:
        asked.update(settings, calls=calls)
        return {"a": "times"}, {}

    monkeypatch.setattr(measure, "interleave_cuda", interleave_cuda)
    monkeypatch.setattr(measure, "CudaClock", lambda device: f"the clock of {device}")
    calls = {"a": lambda: None, "b": lambda: None}
    assert measure.interleave_on_gpu(torch.device("cuda", 1), calls, 2.0) == {"a": "times"}
    assert set(asked["eager"]) == {"a", "b"} and asked["budget_s"] == 2.0
    assert asked["clock"] == "the clock of cuda:1" and not asked.get("cold")


# ---- launches are tuned before they are timed


@pytest.fixture
def candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sk.SparseLinear]:
    """A layer as it would be on a GPU, in Triton's interpreter."""
    pytest.importorskip("triton")
    monkeypatch.setenv("SPARSEKERN_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "CudaClock", lambda device: HostClock())
    cache.load.cache_clear()
    dense = nn.Linear(32, 32)
    sk.prune.prune_(nn.Sequential(dense), 0.5, block=(16, 16))
    sparse = sk.SparseLinear.from_dense(dense, (16, 16)).eval()
    sparse.kernel = "triton_linear"
    sparse.index = BY_NAME["triton_linear"].backend().pack(sparse.matrix)
    yield sparse
    cache.load.cache_clear()


def test_a_candidate_is_tuned_once_for_a_size(
    candidate: sk.SparseLinear, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned: list[tune.Product] = []
    real = tune.tune

    def spy(product: tune.Product, given: Any, *, budget_s: float, workers: int) -> tune.Tuned:
        assert budget_s == measure.TUNING_S and workers >= 1
        tuned.append(product)
        return real(product, given, budget_s=0.0)

    monkeypatch.setattr(tune, "tune", spy)
    x = torch.randn(2, 3, 32)
    measure._tune([candidate], x)
    assert [product.task.m for product in tuned] == [6] and tune.is_kept(tuned[0].task)
    measure._tune([candidate], x)
    assert len(tuned) == 1, "it is kept"
    measure._tune([candidate], x[:1])
    assert len(tuned) == 2, "other rows are another product"


def test_a_candidate_that_no_triton_kernel_runs_is_not_tuned(
    candidate: sk.SparseLinear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "tune", lambda *_, **__: pytest.fail("nothing is to be tuned"))
    candidate.kernel = "reference_linear"
    measure._tune([candidate], torch.randn(2, 32))


def test_a_cache_that_cannot_be_written_is_said_and_no_more(
    candidate: sk.SparseLinear, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARSEKERN_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(measure, "TUNING_S", 0.01)
    with pytest.warns(UserWarning, match="tuned launches cannot be kept"):
        measure._tune([candidate], torch.randn(2, 32))
