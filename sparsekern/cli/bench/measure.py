"""One case: every rival prepared, checked, and timed in one interleaved run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from sparsekern.bench import Ratio, Timing, best_dense, interleave, ratio
from sparsekern.cli.bench.cases import Call, Case, Tensors
from sparsekern.cli.bench.limit import Limit, limit

FAST_ALGORITHMS = ("nnpack",)
"""Those that multiply less, by transforms that round more: they are held to `Truth.loose`."""


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
        return self.fastest(self.case.dense_rivals)

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
    """Time `setting.rivals` on these tensors of the case, with torch's present threads.

    Whoever computes something wrong is not timed; that is a refusal. ValueError if it is sparsekern.
    """
    weight, _, x = tensors
    calls: dict[str, Call] = {}
    errors: dict[str, float] = {}
    refusals: dict[str, str] = {}
    with torch.inference_mode():
        truth = case.truth(tensors)
        for rival in setting.rivals:
            call = case.prepare(rival, tensors)
            if isinstance(call, str):
                refusals[rival] = call
                continue
            try:
                errors[rival] = truth.check(call(x), x.dtype, loose=rival in FAST_ALGORITHMS)
            except ValueError as error:
                refusals[rival] = str(error)
            else:
                calls[rival] = call
        if "sparsekern" not in calls:
            raise ValueError(f"sparsekern on {case}: {refusals['sparsekern']}")
        least = limit(case, weight, setting.peak_gflops, setting.threads)
        timed = {rival: partial(call, x) for rival, call in calls.items()}
        times = interleave(timed, budget_s=setting.budget_s)
    return Result(case, times, errors, refusals, case.kernel_of(calls["sparsekern"]), least)
