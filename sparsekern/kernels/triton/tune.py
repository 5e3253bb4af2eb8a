"""Finding the fastest launch of a product on this GPU, and keeping it (`cache.py`).

A forward call never tunes: it takes what is kept, or the default. `swap_` and `sparsekern gpu` tune, each
product for a bounded time. This module knows no Triton and has no clock: they come with the product and the
``measure`` that are handed to it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from subprocess import SubprocessError
from threading import Lock
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from sparsekern.kernels.select import PackedWeight
from sparsekern.kernels.triton.cache import load, save
from sparsekern.kernels.triton.launch import Launch, Task, candidates, key_of

Call = Callable[[], object]
Measure = Callable[[Mapping[str, Call]], Mapping[str, float]]
"""Times calls against each other: name -> us."""

GO_ON = 4  # one of so many candidates is timed once more
CHECKING = 0.6  # of the budget, at most, for compiling and checking


@dataclass(frozen=True)
class Product:
    """What is tuned: ``run`` computes the product of ``task``, launched as it is told, by default as chosen.

    ``magnitude`` is the sum of its terms' absolute values, of the same shape, and ``terms`` how many a sum
    has: so it is known how far two orders of adding may be apart.
    """

    task: Task
    terms: int
    run: Callable[[Launch | None], Tensor]
    magnitude: Callable[[], Tensor]


@dataclass(frozen=True)
class Tuned:
    """The fastest launch of a task; ``left_out`` counts, by reason, the candidates that were not timed."""

    task: Task
    launch: Launch
    time_us: float
    default_us: float
    timed: int
    left_out: Mapping[str, int]


def linear_products(x: Tensor, weight: PackedWeight, kinds: Sequence[str] = ("linear",)) -> Iterator[Product]:
    """The products of a Linear on ``x`` (m, k): "linear" itself, "linear_input" and "linear_values" its
    gradients, from a gradient of normal values."""
    from sparsekern.kernels.triton import bsr_linear as op

    absolute = weight._replace(values=weight.values.abs())
    grad = torch.randn(x.shape[0], weight.n, device=x.device).to(x.dtype) if kinds != ("linear",) else x
    sides = (weight.values.shape[1], weight.values.shape[2])
    for kind in kinds:
        if kind == "linear_values":
            sizes = (x.shape[0], weight.n, weight.k)
            task = op.task_of(kind, x, *sides, sizes, weight.col.numel())
            run = partial(op.values_gradient, grad, x, weight)
            magnitude = partial(op.values_gradient, grad.abs(), x.abs(), weight)
            yield Product(task, x.shape[0], run, magnitude)
            continue
        left = x if kind == "linear" else grad
        matrix = op.matrix_of(weight, transposed=kind == "linear_input")
        sizes = (left.shape[0], matrix.n, matrix.k)
        task = op.task_of(kind, left, matrix.wide, matrix.deep, sizes, weight.col.numel())
        of_absolute = op.matrix_of(absolute, transposed=kind == "linear_input")
        run = partial(op.product, left, matrix, None, 0)
        yield Product(task, matrix.k, run, partial(op.product, left.abs(), of_absolute, None, 0))


def is_kept(task: Task) -> bool:
    """Whether a launch is kept for this very task."""
    return key_of(task) in load(task.device, task.arch)


def tune(product: Product, measure: Measure, *, budget_s: float = 10.0, workers: int = 1) -> Tuned:
    """Times the candidates for a product, keeps the fastest launch, and returns it.

    Every candidate runs once, ``workers`` at a time, so that they are compiled side by side, those like the
    default first. Its result must be that of the default launch but for the order of adding, in memory that
    was NaN before; one that does not compile, or is wrong, is left out, as is one whose turn has not come
    when most of the budget is spent.
    The others go through successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943, section 3): all
    are timed, a quarter of them is timed again, until few are left, which are timed with the default.

    ``budget_s`` is not exceeded by more than what is under way. What the default launch raises goes through,
    as does an OSError where nothing can be kept. RuntimeError if the default leaves outputs unwritten.
    """
    start = perf_counter()
    first, *others = _in_turn(candidates(product.task))
    right, left_out = check(product, [first, *others], until=start + CHECKING * budget_s, workers=workers)
    finalists = _halved(product, right, measure, start + budget_s)
    last = list(dict.fromkeys([first, *finalists]))
    times = _time(product, last, measure)
    best = min(range(len(last)), key=times.__getitem__)
    found = Tuned(product.task, last[best], times[best], times[0], len(right), left_out)
    save(product.task.device, {key_of(product.task): found.launch})
    return found


def _in_turn(launches: Sequence[Launch]) -> list[Launch]:
    """The default, which comes first; then those that differ from it in little, so that a short time goes to
    every choice that can be made; among equals at random."""
    first, *others = launches
    random.Random(0).shuffle(others)
    own = astuple(first)
    others.sort(key=lambda launch: sum(a != b for a, b in zip(own, astuple(launch), strict=True)))
    return [first, *others]


def _halved(product: Product, launches: list[Launch], measure: Measure, until: float) -> list[Launch]:
    """At most GO_ON of the launches, or what is left of them when the time is up: the fastest first."""
    while len(launches) > GO_ON:
        times = _time(product, launches, measure)
        fastest = sorted(range(len(launches)), key=times.__getitem__)
        late = perf_counter() >= until
        launches = [launches[i] for i in fastest[: 1 if late else -(-len(launches) // GO_ON)]]
    return launches


def _time(product: Product, launches: Sequence[Launch], measure: Measure) -> list[float]:
    times = measure({str(i): partial(product.run, launch) for i, launch in enumerate(launches)})
    return [times[str(i)] for i in range(len(launches))]


# ---- which candidates are right


def check(
    product: Product, launches: Sequence[Launch], *, until: float, workers: int = 1
) -> tuple[list[Launch], Mapping[str, int]]:
    """The launches whose result is that of the first, which is among them, and for the others, by reason, how
    many they are. ``until``, of `time.perf_counter`, is when no other is begun."""
    lock = Lock()
    with poisoned():
        want = product.run(launches[0]).float()
        if not bool(want.isfinite().all()):
            raise RuntimeError(f"{launches[0]} leaves outputs unwritten, or not finite, on {product.task}")
        limit = _rounding(product, want)

        def verdict(launch: Launch) -> str | None:
            if perf_counter() >= until:
                return "no time left"
            try:
                got = product.run(launch)
            except errors() as error:
                return f"{launch.kernel}: {type(error).__name__}"
            with lock:  # one at a time: these take several times the memory of a result
                right = bool(((got.float() - want).abs() <= limit).all())
            return None if right else f"{launch.kernel}: wrong"

        verdicts = side_by_side([partial(verdict, launch) for launch in launches[1:]], workers, want.device)
    judged = list(zip(launches, [None, *verdicts], strict=True))
    right = [launch for launch, reason in judged if reason is None]
    return right, dict(Counter(reason for _, reason in judged if reason is not None))


def _rounding(product: Product, want: Tensor) -> Tensor:
    """How far two orders of adding may be apart, componentwise: 2 gamma_k of the terms' magnitude, and a unit
    of the result's own precision (Higham 2002, Accuracy and Stability of Numerical Algorithms, eq. 3.5)."""
    magnitude = product.magnitude()
    unit = torch.finfo(torch.float32).eps / 2
    gamma = product.terms * unit / (1 - product.terms * unit)
    return 2 * gamma * magnitude.float() + torch.finfo(magnitude.dtype).eps * want.abs()


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, what torch allocates is NaN until it is written, in all threads."""
    settings: Any = torch.utils.deterministic
    mode, fill = torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("warn")  # in which torch fills, and goes on
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        settings.fill_uninitialized_memory = fill


def side_by_side(
    calls: Sequence[Callable[[], str | None]], workers: int, device: torch.device
) -> list[str | None]:
    """What the calls return, in their order; Triton compiles in as many threads as there are ``workers``."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # threads queue on the default stream, the caller perhaps on another
    enter = partial(torch.cuda.set_device, device) if device.type == "cuda" else None
    with ThreadPoolExecutor(workers, initializer=enter) as pool:
        return list(pool.map(lambda call: call(), calls))


def errors() -> tuple[type[Exception], ...]:
    """What Triton and the driver raise where a launch does not compile or cannot be launched."""
    common = (RuntimeError, ValueError, AssertionError, LookupError, OSError, SubprocessError)
    try:
        from triton.errors import TritonError
    except ImportError:
        return common
    return (TritonError, *common)
