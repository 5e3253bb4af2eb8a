"""Tuning: which candidates are timed, which wins, what is kept; products of planted kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import pytest
import torch
from torch import Tensor

from sparsekern.kernels.triton import cache, launch, tune
from sparsekern.kernels.triton.launch import Launch, Task, candidates, default

pytest.importorskip("triton")

TASK = Task("linear", "a GPU of tests", "sm_90", "float32", 64, 64, 4096, 256, 256, 4, 132)
PLACES = {chosen: place for place, chosen in enumerate(reversed(candidates(TASK)))}
WANT = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SPARSEKERN_CACHE", str(tmp_path))
    cache.load.cache_clear()
    cache.choose.cache_clear()
    yield
    cache.load.cache_clear()
    cache.choose.cache_clear()


def right(chosen: Launch | None) -> Tensor:
    return WANT + 1e-7 * (chosen.stages if chosen else 0)  # another order of adding


def product(run: Callable[[Launch | None], Tensor] = right) -> tune.Product:
    return tune.Product(TASK, 256, run, lambda: WANT.abs() + 1)


def clock(
    us: Callable[[Launch], float], asked: list[list[Launch]] | None = None
) -> Callable[[Mapping[str, tune.Call]], dict[str, float]]:
    """A ``measure`` that says how long each launch takes, and keeps what it was asked."""

    def measure(calls: Mapping[str, tune.Call]) -> dict[str, float]:
        launches = {name: call.args[-1] for name, call in calls.items() if isinstance(call, partial)}
        if asked is not None:
            asked.append(list(launches.values()))
        return {name: us(chosen) for name, chosen in launches.items()}

    return measure


def slower_with_stages(chosen: Launch) -> float:
    return 10.0 + chosen.stages + PLACES[chosen] / 1e4


def test_the_fastest_is_found_kept_and_chosen() -> None:
    assert not tune.is_kept(TASK)
    found = tune.tune(product(), clock(slower_with_stages))
    best = min(candidates(TASK), key=slower_with_stages)
    assert found.launch == best != default(TASK)
    assert (found.time_us, found.default_us) == tuple(map(slower_with_stages, (best, default(TASK))))
    assert found.timed == len(candidates(TASK)) and found.left_out == {}
    assert tune.is_kept(TASK) and cache.choose(TASK) == best
    assert cache.read(cache.path_of("a GPU of tests")) == {launch.key_of(TASK): best}


def test_candidates_are_halved_and_the_default_is_in_the_final() -> None:
    asked: list[list[Launch]] = []
    tune.tune(product(), clock(slower_with_stages, asked))
    counts = [len(launches) for launches in asked]
    assert counts[0] == len(candidates(TASK)) and all(a == -(-b // 4) for b, a in pairwise(counts[:-1]))
    last = -(-counts[-2] // 4)
    assert counts[-2] > 4 >= last and counts[-1] in (last, last + 1)
    assert asked[-1][0] == default(TASK)
    worst = max(asked[0], key=slower_with_stages)
    assert worst not in asked[1]


def planted(broken: Callable[[Launch], bool], breaks: Callable[[], Tensor]) -> tune.Product:
    """A product of which the fast launches are broken."""
    return product(lambda chosen: breaks() if chosen and broken(chosen) else right(chosen))


def _raises(error: Exception) -> Callable[[], Tensor]:
    def run() -> Tensor:
        raise error

    return run


def _wrong_once() -> Tensor:
    wrong = WANT.clone()
    wrong[-1, -1] += 1e-2
    return wrong


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (_wrong_once, "wrong"),
        (lambda: WANT.clone().fill_(torch.nan), "wrong"),
        (lambda: torch.empty(8, 6), "wrong"),  # nothing is written, and the memory held the right result
        (_raises(RuntimeError("PassManager::run failed")), "RuntimeError"),
        (_raises(AssertionError("strides must be 16-byte aligned")), "AssertionError"),
    ],
    ids=["one element", "NaN", "unwritten", "does not compile", "does not launch"],
)
def test_what_is_wrong_is_not_timed(breaks: Callable[[], Tensor], words: str) -> None:
    asked: list[list[Launch]] = []
    few_stages = planted(lambda chosen: chosen.stages < 3, breaks)
    found = tune.tune(few_stages, clock(slower_with_stages, asked))
    assert found.launch.stages == 3
    assert all(chosen.stages >= 3 for launches in asked for chosen in launches)
    broken = [chosen for chosen in candidates(TASK) if chosen.stages < 3]
    assert sum(found.left_out.values()) == len(broken) == len(candidates(TASK)) - found.timed
    assert {reason.split(": ")[1] for reason in found.left_out} == {words}


def test_triton_errors_leave_a_candidate_out() -> None:
    from triton.runtime.errors import OutOfResources

    found = tune.tune(
        planted(lambda chosen: chosen.stages < 3, _raises(OutOfResources(300, 227, "shared memory"))),
        clock(slower_with_stages),
    )
    assert found.launch.stages == 3 and "tma: OutOfResources" in found.left_out


def test_mistakes_of_ours_go_through() -> None:
    with pytest.raises(ZeroDivisionError):
        tune.tune(planted(lambda chosen: chosen.stages < 3, lambda: WANT / (1 // 0)), clock(lambda _: 1.0))


def test_a_default_that_does_not_write_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="leaves outputs unwritten"):
        tune.tune(product(lambda chosen: torch.empty(8, 6)), clock(slower_with_stages))
    assert not tune.is_kept(TASK)


def test_no_time_leaves_the_default() -> None:
    found = tune.tune(product(), clock(slower_with_stages), budget_s=0.0)
    assert found.launch == default(TASK) and found.timed == 1
    assert found.left_out == {"no time left": len(candidates(TASK)) - 1}


def test_the_time_is_shared_by_checking_and_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def slow(chosen: Launch | None) -> Tensor:
        nonlocal now
        now += 1.0
        return right(chosen)

    monkeypatch.setattr(tune, "perf_counter", lambda: now)
    asked: list[list[Launch]] = []
    found = tune.tune(product(slow), clock(slower_with_stages, asked), budget_s=20.0)
    assert found.timed == 12  # the default, then eleven until twelve seconds, six tenths, have gone
    own = astuple(default(TASK))

    def differences(other: Launch) -> int:
        return sum(a != b for a, b in zip(own, astuple(other), strict=True))

    assert asked[0][0] == default(TASK)
    assert max(map(differences, asked[0])) <= sorted(map(differences, candidates(TASK)))[12], "the like first"


def test_candidates_run_side_by_side() -> None:
    at_once = threading.Barrier(3, timeout=10)

    def waits(chosen: Launch | None) -> Tensor:
        if chosen is not None and chosen != default(TASK):
            at_once.wait()  # no one gets through alone
        return right(chosen)

    some = [chosen for chosen in candidates(TASK) if chosen != default(TASK)][:9]
    of_three, left_out = tune.check(
        product(waits), [default(TASK), *some], until=perf_counter() + 60, workers=3
    )
    assert of_three == [default(TASK), *some] and left_out == {}


def test_memory_is_poisoned_inside_and_only_there() -> None:
    mode = torch.get_deterministic_debug_mode()
    with tune.poisoned():
        assert bool(torch.zeros(3).new_empty(5).isnan().all()) and bool(torch.empty(5).isnan().all())
    assert torch.get_deterministic_debug_mode() == mode
    with pytest.raises(KeyError), tune.poisoned():
        raise KeyError
    assert torch.get_deterministic_debug_mode() == mode


def test_the_products_of_a_layer_are_those_that_it_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tasks are the ones that the launcher asks for, and their results are right."""
    import truth
    from triton_checks import DEVICE, make

    from sparsekern.kernels.triton import bsr_linear

    weight, dense = make(truth.Case(48, 32, (16, 16), 0.4), torch.float32, with_bias=False)
    x = torch.randn(20, 32, device=DEVICE)
    asked: list[Task] = []
    real = bsr_linear.choose
    monkeypatch.setattr(bsr_linear, "choose", lambda task: asked.append(task) or real(task))
    kinds = ("linear", "linear_input", "linear_values")
    for kind, item in zip(kinds, tune.linear_products(x, weight, kinds), strict=True):
        got, magnitude = item.run(None), item.magnitude()
        assert asked[0] == item.task and item.task.kind == kind
        assert got.shape == magnitude.shape and bool((got.abs() <= magnitude * (1 + 1e-5)).all())
        if item.task.kind == "linear":
            truth.assert_close(got, x.double() @ dense.T, truth.bound(x, dense, None, torch.float32))
        asked.clear()


def test_a_real_product_is_tuned() -> None:
    import truth
    from triton_checks import DEVICE, make

    weight, _ = make(truth.Case(16, 32, (16, 16), 0.0), torch.bfloat16, with_bias=False)
    (item,) = tune.linear_products(torch.randn(2, 32, device=DEVICE).bfloat16(), weight)
    found = tune.tune(item, clock(lambda chosen: 1.0 / chosen.warps), budget_s=1.0)
    assert found.timed >= 1 and cache.choose(item.task) == found.launch
    assert not any(reason.endswith("wrong") for reason in found.left_out)
