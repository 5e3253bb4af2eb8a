"""Timing on a device of the tests' own: what a sample holds, in which order, and what is not counted."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparsekern.bench import Timing, cuda
from sparsekern.bench.cuda import CudaClock, HostClock, Recorded, interleave_cuda

FLUSH_US, LAUNCH_US = 70.0, 10.0


class Device:
    """A device with a cache that holds what one call uses, and a host that needs LAUNCH_US for each launch.
    Its clock moves only when a call says so."""

    def __init__(self) -> None:
        self.us, self.host_s = 0.0, 0.0
        self.cached = ""
        self.order: list[str] = []
        self.timed: list[str] = []
        self.uncapturable: set[str] = set()

    def call(self, name: str, cold_us: float, warm_us: float) -> Callable[[], None]:
        def run() -> None:
            self.us += warm_us if self.cached == name else cold_us
            self.cached = name
            self.order.append(name)

        return run

    def record(self, call: Callable[[], object], graph: bool) -> Recorded:
        before = len(self.order)
        call()
        ran = self.order[before:]
        if graph and self.uncapturable & set(ran):
            return Recorded(call, False, "no CUDA graph: it asks the host")
        return Recorded(call, graph)

    def time_us(self, recorded: Recorded) -> float:
        start, before = self.us, len(self.order)
        recorded.run()
        ran = self.order[before:]
        self.timed.append(f"{len(ran)} {ran[0]}")
        if not recorded.graph:
            self.us += LAUNCH_US * len(ran)
        self.host_s += (self.us - start) / 1e6
        return self.us - start

    def flush(self) -> None:
        self.us += FLUSH_US
        self.cached = "nothing"
        self.order.append("flush")

    def now_s(self) -> float:
        return self.host_s


@pytest.fixture
def device() -> Device:
    return Device()


def test_cold_and_warm_are_what_they_say(device: Device) -> None:
    calls = {"short": device.call("short", 35, 4), "long": device.call("long", 900, 800)}
    cold, _ = interleave_cuda(calls, rounds=6, cold=True, clock=device)
    warm, _ = interleave_cuda(calls, rounds=6, clock=device)
    assert cold == {"short": Timing("short", (35.0,) * 6), "long": Timing("long", (900.0,) * 6)}
    assert warm == {"short": Timing("short", (4.0,) * 6), "long": Timing("long", (800.0,) * 6)}


def test_a_graph_holds_a_call_until_it_lasts_long_enough(device: Device) -> None:
    interleave_cuda({"a": device.call("a", 8, 8)}, rounds=5, clock=device)
    assert device.timed == ["1 a"] * 3 + ["25 a"] * 5  # 25 times 8 us are 200
    device.timed.clear()
    interleave_cuda({"a": device.call("a", 0.5, 0.5)}, rounds=5, clock=device)
    assert device.timed[-1] == "64 a"
    device.timed.clear()
    interleave_cuda({"a": device.call("a", 250, 250)}, rounds=5, clock=device)
    assert set(device.timed) == {"1 a"}


def test_cold_calls_come_with_a_flush_each_and_the_flush_is_timed_in_the_same_rounds(device: Device) -> None:
    interleave_cuda({"a": device.call("a", 8, 2)}, rounds=5, cold=True, clock=device)
    samples = [entry for entry in device.timed if entry.endswith("flush")]
    assert samples == [f"{2 * cuda.MOST_COLD_COPIES} flush", f"{cuda.FLUSHES} flush"] * 5


def test_what_is_lost_in_the_flushes_is_not_nothing(device: Device) -> None:
    times, _ = interleave_cuda({"a": device.call("a", 0.0, 0.0)}, rounds=5, cold=True, clock=device)
    assert times["a"].samples_us == (cuda.SHORTEST_US,) * 5


def test_rounds_are_palindromes_of_each_other_from_a_seeded_start(device: Device) -> None:
    calls = {name: device.call(name, 500, 500) for name in "abc"}

    def rounds(seed: int) -> list[str]:
        device.timed.clear()
        interleave_cuda(calls, rounds=6, budget_s=100, clock=device, seed=seed)
        timed = "".join(entry[-1] for entry in device.timed[9:])
        return [timed[start : start + 3] for start in range(0, 18, 3)]

    found = rounds(0)
    assert found == [found[0], found[0][::-1]] * 3 and set(found[0]) == set("abc")
    assert rounds(0) == found and len({rounds(seed)[0] for seed in range(20)}) > 3


def test_the_budget_ends_it_but_not_before_five_rounds(device: Device) -> None:
    slow, _ = interleave_cuda({"a": device.call("a", 1e6, 1e6)}, budget_s=0.001, clock=device)
    assert len(slow["a"].samples_us) == 5
    some, _ = interleave_cuda({"a": device.call("a", 1e4, 1e4)}, budget_s=0.125, clock=device)
    assert len(some["a"].samples_us) == 10  # 30 ms of calibration, then 10 ms each


def test_what_is_launched_one_by_one_pays_for_it(device: Device) -> None:
    calls = {name: device.call(name, 30, 30) for name in ("eager", "graph")}
    times, refusals = interleave_cuda(calls, rounds=5, eager=["eager"], clock=device)
    assert times["eager"].median_us == 40.0 and times["graph"].median_us == 30.0
    assert refusals == {}


def test_what_cannot_be_captured_is_timed_and_says_so(device: Device) -> None:
    device.uncapturable = {"a"}
    calls = {"a": device.call("a", 30, 30), "b": device.call("b", 30, 30)}
    times, refusals = interleave_cuda(calls, rounds=5, clock=device)
    assert refusals == {"a": "no CUDA graph: it asks the host"}
    assert list(times) == ["a", "b"] and times["a"].median_us == 40.0 and times["b"].median_us == 30.0


def test_nothing_to_time_and_too_few_rounds(device: Device) -> None:
    with pytest.raises(ValueError, match="nothing to time"):
        interleave_cuda({}, clock=device)
    with pytest.raises(ValueError, match="rounds is 4, expected at least 5"):
        interleave_cuda({"a": lambda: None}, rounds=4, clock=device)


def test_the_collector_rests_and_comes_back_and_errors_go_through() -> None:
    seen: list[bool] = []
    interleave_cuda({"a": lambda: seen.append(gc.isenabled())}, rounds=5, clock=HostClock())
    assert not any(seen) and gc.isenabled()

    def fails() -> None:
        raise RuntimeError("kernel broke")

    with pytest.raises(RuntimeError, match="kernel broke"):
        interleave_cuda({"a": fails}, clock=HostClock())
    assert gc.isenabled()


# ---- CudaClock on a torch.cuda that only takes notes


class FakeCuda:
    """What CudaClock uses of torch.cuda; a list of what was asked, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current, self.pools = "default", 0
        self.breaks = False  # whether captures end in an error

    def _note(self, *words: object) -> None:
        self.log.append(" ".join(map(str, words)))

    def device(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, "side"
        try:
            yield
        finally:
            self.current = before

    def Stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)

    def current_stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: None)

    def Event(self, enable_timing: bool) -> Any:
        assert enable_timing
        return SimpleNamespace(
            record=lambda: self._note("event on", self.current),
            synchronize=lambda: self._note("wait"),
            elapsed_time=lambda end: 0.25,
        )

    def graph_pool_handle(self) -> tuple[int, int]:
        self.pools += 1
        return (0, self.pools)

    def synchronize(self) -> None:
        self._note("synchronize")

    def CUDAGraph(self) -> Any:
        fake = self

        class Graph:
            def capture_begin(self, pool: tuple[int, int], capture_error_mode: str) -> None:
                assert fake.current == "side" and capture_error_mode == "thread_local"
                fake._note("begin in pool", pool[1])

            def capture_end(self) -> None:
                fake._note("end")
                if fake.breaks:
                    raise RuntimeError("operation not permitted\nwhen stream is capturing")

            def replay(self) -> None:
                fake._note("replay on", fake.current)

        return Graph()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda.torch, "cuda", fake)
    return fake


def test_a_call_is_warmed_up_then_captured_then_replayed_between_events(fake: FakeCuda) -> None:
    clock = CudaClock(torch.device("cuda", 0))
    recorded = clock.record(lambda: fake.log.append(f"call on {fake.current}"), True)
    assert recorded.graph and recorded.refusal is None
    warm_up = ["call on default", "synchronize", "call on side"]
    assert fake.log == [*warm_up, "begin in pool 1", "call on side", "end"]
    fake.log.clear()
    assert clock.time_us(recorded) == 250.0
    assert fake.log == ["event on default", "replay on default", "event on default", "wait"]


def test_an_eager_run_starts_on_an_idle_device(fake: FakeCuda) -> None:
    clock = CudaClock(torch.device("cuda", 0))
    recorded = clock.record(lambda: fake.log.append("call"), False)
    fake.log.clear()
    clock.time_us(recorded)
    assert not recorded.graph and fake.log[:3] == ["synchronize", "event on default", "call"]


def test_a_capture_that_fails_leaves_the_stream_and_takes_another_pool(fake: FakeCuda) -> None:
    clock = CudaClock(torch.device("cuda", 0))
    fake.breaks = True
    recorded = clock.record(lambda: None, True)
    assert not recorded.graph and recorded.refusal == "no CUDA graph: operation not permitted"
    assert fake.current == "default" and len(clock._kept) == 1, "the allocator still asks that graph"
    fake.breaks = False
    assert clock.record(lambda: None, True).graph
    assert [line for line in fake.log if line.startswith("begin")] == ["begin in pool 1", "begin in pool 2"]
    clock.record(lambda: None, True)
    assert len(clock._kept) == 2, "one graph keeps the pool alive, the others may go"


def test_the_flush_reads_several_times_the_l2(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = torch.rand
    monkeypatch.setattr(
        fake, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=1 << 20), raising=False
    )
    monkeypatch.setattr(cuda.torch, "rand", lambda size, device: asked.append(size) or real(4))
    clock = CudaClock(torch.device("cuda", 0))
    clock.flush()
    clock.flush()
    assert asked == [1 << 20], "four times a MiB in numbers of four bytes, allocated once"
