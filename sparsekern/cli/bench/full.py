"""`sparsekern bench full`: every operator, whole networks and a ticket, in the time there is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import monotonic

from torch import nn

from sparsekern.cli.bench.cases import Case
from sparsekern.cli.bench.cases_conv import conv_cases
from sparsekern.cli.bench.cases_linear import cases
from sparsekern.cli.bench.command import bench_cases, look_at_machine
from sparsekern.cli.bench.measure import Setting
from sparsekern.cli.bench.model import check, plain, shape_of, ticket_network, time_model
from sparsekern.cli.bench.network import NetworkCase, bench_networks
from sparsekern.cli.bench.presets import NETWORKS, PRESETS
from sparsekern.cli.bench.presets_conv import PRESETS_CONV2D
from sparsekern.cli.bench.records import Journal, check_outputs
from sparsekern.cli.bench.rivals import RIVALS, missing
from sparsekern.cli.bench.rivals_conv import RIVALS_CONV2D
from sparsekern.cli.progress import say
from sparsekern.cli.threads import torch_threads

PRESET = "survey"
SHARES = {"linear": 0.4, "conv2d": 0.2, "network": 0.35, "ticket": 0.05}
"""Part -> its share of the time. What a part leaves over goes to those after it."""
SPARSITIES = (0.9,)
MOST_S, LEAST_S = 2.0, 0.05
"""How long one case is timed at most and at least; below the least there would be no five rounds."""

Share = Callable[[int], "float | None"]
"""How many seconds the next of so many cases may be timed; None when the time is up."""


@dataclass
class Clock:
    """Shares out the time until `ends` (s, of `monotonic`) among the cases that are left: half of a case's
    share is for timing, half for making and checking it. No case begins that would end too late if it took
    twice as long as the longest before it."""

    ends: float
    began: float | None = None
    longest_s: float = 0.0

    def __call__(self, left: int) -> float | None:
        """See `Share`."""
        now = monotonic()
        if self.began is not None:
            self.longest_s = max(self.longest_s, now - self.began)
        self.began, rest = now, self.ends - now
        if rest <= 2 * self.longest_s:
            return None
        return min(MOST_S, max(LEAST_S, rest / left / 2))


def bench_full(options: argparse.Namespace) -> int:
    """The command. Returns 0, also when the time was up before all cases were timed, which it says."""
    ends = monotonic() + 60 * options.minutes
    check_outputs(options)
    ticket = None if options.ticket is None else plain(ticket_network(options.ticket))
    if ticket is not None:
        check(ticket, [[shape_of(ticket)]])
    with torch_threads(options.threads):
        setting, journal = look_at_machine(options, (), MOST_S)
        parts: dict[str, Callable[[Share], int]] = {
            "linear": lambda share: _cases(cases(PRESETS[PRESET], {}), RIVALS, setting, journal, share),
            "conv2d": lambda share: _cases(
                conv_cases(PRESETS_CONV2D[PRESET], {}), RIVALS_CONV2D, setting, journal, share
            ),
            "network": lambda share: bench_networks(_networks(), journal, share),
        }
        if ticket is not None:
            parts["ticket"] = lambda share: _ticket(options.ticket.name, ticket, journal, share)
        left = {}
        for name, part in parts.items():
            say(f"## {name}\n", sys.stdout)
            left[name] = part(Clock(_end_of(name, list(parts), ends)))
            say("", sys.stdout)
        journal.close()
    for name, count in left.items():
        if count:
            say(f"{name}: {count} cases are left, the time was up; --json and --resume go on", sys.stdout)
    return 0


def _end_of(name: str, parts: Sequence[str], ends: float) -> float:
    """When this part must be done, if all is to be done at `ends`."""
    now = monotonic()
    after = sum(SHARES[part] for part in parts[parts.index(name) :])
    return now + max(0.0, ends - now) * SHARES[name] / after


def _cases(
    chosen: Sequence[Case], rivals: Iterable[str], setting: Setting, journal: Journal, share: Share
) -> int:
    here = [rival for rival in rivals if missing(rival) is None]
    return bench_cases(chosen, replace(setting, rivals=here), journal, share)


def _networks() -> list[NetworkCase]:
    return [NetworkCase(name, 1, sparsity, (1, 1)) for name in NETWORKS for sparsity in SPARSITIES]


def _ticket(name: str, model: nn.Module, journal: Journal, share: Share) -> int:
    if (seconds := share(1)) is None:
        return 1
    time_model(name, model, [shape_of(model)], None, seconds, journal)
    return 0
