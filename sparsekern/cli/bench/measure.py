"""One case: every rival prepared, checked, and timed in one interleaved run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from sparsekern.bench import Ratio, Timing, best_dense, interleave, ratio
from sparsekern.cli.bench.cases import Case, Tensors, Truth
from sparsekern.cli.bench.limit import Limit, limit
from sparsekern.cli.bench.rivals import DENSE_RIVALS, RIVALS, Call, prepare
from sparsekern.cli.bench.rivals_int8 import RIVALS_INT8
from sparsekern.nn import QuantizedSparseLinear, SparseLinear


@dataclass(frozen=True)
class Setting:
    """What all cases of a run share: who is timed, how long, on how many threads, one thread's peak."""

    rivals: Sequence[str]
    budget_s: float
    threads: int
    peak_gflops: float


@dataclass(frozen=True)
class Result:
    """What was measured of one case, by rival: `times` and `errors`, or the `refusals` in words."""

    case: Case
    times: Mapping[str, Timing]
    errors: Mapping[str, float]
    refusals: Mapping[str, str]
    kernel: str
    limit: Limit

    @property
    def ours(self) -> Timing:
        """The timing of sparsekern."""
        return self.times["sparsekern"]

    @property
    def best_dense(self) -> str | None:
        """Name of the fastest dense rival; None if all refuse."""
        return self.fastest(DENSE_RIVALS)

    def fastest(self, rivals: Sequence[str]) -> str | None:
        """Name of the fastest of these rivals; None if none of them was timed."""
        times = {rival: self.times[rival] for rival in rivals if rival in self.times}
        return best_dense(times) if times else None

    def against(self, base: str | None, other: str = "sparsekern") -> Ratio | None:
        """Speed-up of `other` over `base`; None if the base was not timed."""
        if base is None or base not in self.times:
            return None
        return ratio(self.times[base], self.times[other])

    @property
    def share(self) -> float:
        """The physical limit's time over that of sparsekern."""
        return self.limit.time_us / self.ours.median_us


def measure(case: Case, tensors: Tensors, setting: Setting) -> Result:
    """Time `setting.rivals` on W (n, k), b (n,), x (m, k), with torch's present threads.

    Whoever computes something wrong is not timed; that is a refusal. ValueError if it is sparsekern.
    """
    weight, bias, x = tensors
    calls: dict[str, Call] = {}
    errors: dict[str, float] = {}
    refusals: dict[str, str] = {}
    with torch.inference_mode():
        int8 = case.dtype == "int8"
        truth = (Truth.of_int8 if int8 else Truth.of)(weight, bias, x)
        for rival in setting.rivals:
            call = prepare(rival, case.block, weight, bias, x, RIVALS_INT8 if int8 else RIVALS)
            if isinstance(call, str):
                refusals[rival] = call
                continue
            try:
                errors[rival] = truth.check(call(x), x.dtype)
            except ValueError as error:
                refusals[rival] = str(error)
            else:
                calls[rival] = call
        ours = calls.get("sparsekern")
        if not isinstance(ours, (SparseLinear, QuantizedSparseLinear)):
            raise ValueError(f"sparsekern on {case}: {refusals['sparsekern']}")
        least = limit(case, weight, setting.peak_gflops, setting.threads)
        timed = {rival: partial(call, x) for rival, call in calls.items()}
        times = interleave(timed, budget_s=setting.budget_s)
    return Result(case, times, errors, refusals, _kernel_of(ours, case.m), least)


def _kernel_of(layer: SparseLinear | QuantizedSparseLinear, rows: int) -> str:
    return layer.variant(rows)
