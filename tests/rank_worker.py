"""One of two ranks that check `sparsekern.prune.distributed`: run by tests/prune/test_distributed.py.

`python rank_worker.py RANK RENDEZVOUS` prints a JSON object: for each of CHECKS what failed, or nothing.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from sparsekern.prune import next_masks
from sparsekern.prune.distributed import (
    across_ranks,
    broadcast_masks,
    masks_digest,
    next_masks_over_ranks,
    require_same_masks,
)
from sparsekern.prune.units import units_of

SHAPES = {"a": (17, 9), "b": (8, 3, 3, 3), "c": (5, 40), "d": (30, 7)}
SPLITS = ({"a": 0, "b": 0, "c": 1, "d": 1}, {"a": 0, "b": 1, "c": 1, "d": 1}, dict.fromkeys(SHAPES, 1))


def drawn(seed: int, levels: int | None = None) -> dict[str, Tensor]:
    """Weights of very different sizes; with `levels`, only so many magnitudes, so that most are ties."""
    draw = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}
    if levels:
        return {
            name: weight.mul(levels / 3).round().clamp(-levels, levels) for name, weight in weights.items()
        }
    return {name: weight * 10.0**at for at, (name, weight) in enumerate(weights.items())}


def own(values: dict[str, Tensor], split: dict[str, int]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if split[name] == dist.get_rank()}


def compare(weights: dict[str, Tensor], block: tuple[int, int], rate: float) -> None:
    """Two rounds over ranks, each the same as in one process that has all weights."""
    for split in SPLITS:
        alive = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
        for _ in range(2):
            whole = next_masks(weights, alive, dict.fromkeys(weights, rate), block, scope="global")
            mine = own(weights, split)
            found = next_masks_over_ranks(mine, own(alive, split), dict.fromkeys(mine, rate), block)
            assert found.keys() == mine.keys()
            for name, mask in found.items():
                assert torch.equal(mask, whole[name]), (name, split, int(mask.sum()), int(whole[name].sum()))
            alive = whole


def single_weights() -> None:
    for rate in (0.0, 0.9):
        compare(drawn(0), (1, 1), rate)


def ties() -> None:
    for levels in (1, 3):
        compare(drawn(1, levels), (1, 1), 0.37)


def ragged_blocks() -> None:
    """Blocks of 1 to 12 elements at the edges: which cut is nearest depends on the unit that crosses it."""
    for seed in range(2):
        compare(drawn(seed), (4, 3), 0.31)
        compare(drawn(seed, 2), (4, 3), 0.31)


def rates_do_not_compete() -> None:
    weights, alive = drawn(2, 3), {name: torch.ones(s, dtype=torch.bool) for name, s in SHAPES.items()}
    rates = {"a": 0.2, "b": 0.5, "c": 0.2, "d": 0.7}  # each rank has a rate that the other has not
    whole = next_masks(weights, alive, rates, scope="global")
    mine = own(weights, SPLITS[0])
    found = next_masks_over_ranks(mine, own(alive, SPLITS[0]), {name: rates[name] for name in mine})
    assert all(torch.equal(mask, whole[name]) for name, mask in found.items())


def a_layer_cut_apart() -> None:
    """Rows 0 to 9 on one rank and the others on the other: without ties the masks are those of the whole."""
    weight = drawn(3)["a"]
    rows = slice(0, 10) if dist.get_rank() == 0 else slice(10, 17)
    all_alive = {"a": torch.ones_like(weight, dtype=torch.bool)}
    whole = next_masks({"a": weight}, all_alive, {"a": 0.6}, scope="global")["a"]
    part = next_masks_over_ranks({"a": weight[rows]}, {"a": all_alive["a"][rows]}, {"a": 0.6})["a"]
    assert torch.equal(part, whole[rows])


def scores_of_any_sign() -> None:
    """Negative, infinite, and both zeros, which are one threshold."""
    scores = torch.tensor([[-2.0, 0.0, -0.0, 3.0, float("inf"), -1e300, 1e-300, -float("inf")]]).double()
    mine = scores if dist.get_rank() == 0 else scores.flip(1)
    for keep in range(17):
        units = units_of(mine, (1, 1))
        units = replace(
            units, scores=mine.flatten().clamp(min=-1e308).sort(descending=True, stable=True).values
        )
        kept = across_ranks({"w": units}, keep / 2)["w"]
        order = torch.cat([scores[0], scores[0].flip(0)]).sort(descending=True, stable=True).indices[:keep]
        assert kept == int((order // 8 == dist.get_rank()).sum()), (keep, kept)


def of_two_cuts_equally_near_more_is_kept() -> None:
    """Three elements are wanted of blocks of two: the best of either rank."""
    scores = torch.tensor([[4.0, 4.0, 1.0, 1.0]] if dist.get_rank() == 0 else [[3.0, 3.0, 2.0, 2.0]])
    assert across_ranks({"w": units_of(scores, (1, 2))}, 1.5) == {"w": 1}
    assert across_ranks({"w": units_of(torch.ones(1, 4), (1, 2))}, 1.5) == {"w": 2 - 2 * dist.get_rank()}


def masks_are_broadcast() -> None:
    masks = {name: weight > 0 for name, weight in drawn(4).items()} | {"e": torch.ones(3, dtype=torch.bool)}
    received = broadcast_masks(masks if dist.get_rank() == 0 else None)
    assert list(received) == list(masks)
    for name, mask in received.items():
        assert mask.dtype == torch.bool and torch.equal(mask, masks[name])
    assert require_same_masks(masks) == masks_digest(received)
    refused(lambda: broadcast_masks(None), "masks are expected on the first rank")


def other_masks_are_an_error_everywhere() -> None:
    masks = {name: weight > 0 for name, weight in drawn(5).items()}
    if dist.get_rank() == 1:
        masks["c"][4, 39] ^= True
    refused(lambda: require_same_masks(masks), "the same masks are expected on every rank, got .*rank 1")


def an_error_of_one_rank_is_everybody_s() -> None:
    mine = own(drawn(6), SPLITS[0])
    if dist.get_rank() == 1:
        mine["c"][0, 0] = float("nan")
    alive = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in mine.items()}
    refused(lambda: next_masks_over_ranks(mine, alive, dict.fromkeys(mine, 0.5)), "rank 1: layer c: .*NaN")
    refused(lambda: next_masks_over_ranks(mine, alive, {}), "rank 0: .*same names.*; rank 1: .*same names")
    bad = dict.fromkeys(mine, 1.0)
    refused(lambda: next_masks_over_ranks(mine, alive, bad), r"rank 0: rate must be in \[0, 1\), got 1.0")
    mine = {"w": torch.randn(4, 8)}
    alive = {"w": torch.ones(4, 8, dtype=torch.bool)}
    refused(lambda: next_masks_over_ranks(mine, alive, {"w": 0.5}, "2:4"), "rank 1: N:M fixes the density of")


def refused(call: Callable[[], object], sentence: str) -> None:
    try:
        call()
    except ValueError as error:
        assert re.search(sentence, str(error)), str(error)
        return
    raise AssertionError(f"a ValueError is expected: {sentence}")


CHECKS = (
    single_weights,
    ties,
    ragged_blocks,
    rates_do_not_compete,
    a_layer_cut_apart,
    scores_of_any_sign,
    of_two_cuts_equally_near_more_is_kept,
    masks_are_broadcast,
    other_masks_are_an_error_everywhere,
    an_error_of_one_rank_is_everybody_s,
)


def main(rank: int, rendezvous: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{rendezvous}", timeout=timedelta(seconds=60), rank=rank, world_size=2
    )
    said = {}
    for check in CHECKS:
        try:
            check()
            said[check.__name__] = ""
        except (AssertionError, ValueError, RuntimeError):
            said[check.__name__] = traceback.format_exc()
            dist.barrier()  # the ranks go on together
        else:
            dist.barrier()
    print(json.dumps(said))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
