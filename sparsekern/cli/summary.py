"""From searches and proofs to the dict that is report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from torch import Tensor

from sparsekern.cli.prove import Proof
from sparsekern.tickets import RoundResult, Search, difference, matched, qualifies
from sparsekern.tickets.evaluation import SEEDS_TO_MATCH

Entry = Mapping[str, Any]


def winning_round(searches: Sequence[Search]) -> int:
    """The round that wins over all seeds: `Search.winner`'s rule on the mean validation accuracies."""
    pruned = range(1, len(searches[0].rounds))
    matching = [index for index in pruned if _matches_on_validation(searches, index)]
    return matching[-1] if matching else max(pruned, key=lambda index: (_validation(searches, index), index))


def _validation(searches: Sequence[Search], index: int) -> float:
    return mean(search.rounds[index].val_accuracy for search in searches)


def _matches_on_validation(searches: Sequence[Search], index: int) -> bool:
    return qualifies(100 * (_validation(searches, index) - _validation(searches, 0)))


def round_entry(searches: Sequence[Search], index: int, proof: Proof) -> dict[str, Any]:
    """One round in figures: means over the seeds, and the times of the first seed's network."""
    entry = control_entry(_rounds(searches)[index], proof)
    beside = {name: [search.control(name, index) for search in searches] for name in searches[0].controls}
    controls = {
        name: mean(result.test_accuracy for result in results if result is not None)
        for name, results in beside.items()
        if None not in results
    }
    if "reinit" in controls:
        entry["accuracy_reinit"] = controls.pop("reinit")
    return entry | ({"controls": controls} if controls else {})


def control_entry(results: Sequence[RoundResult], proof: Proof) -> dict[str, Any]:
    """One round of any run in figures: means over the seeds, and the times of the first seed's network."""
    return {
        "round": results[0].round,
        "sparsity": mean(result.sparsity for result in results),
        "accuracy": mean(result.test_accuracy for result in results),
        "val_accuracy": mean(result.val_accuracy for result in results),
        "early_stop_step": mean(result.early_stop_step for result in results),
        "seeds": [result.test_accuracy for result in results],
        **proof.figures,
    }


def structure_entry(
    name: str, searches: Sequence[Search], proofs: Sequence[Proof], labels: Tensor
) -> dict[str, Any]:
    """One structure with all its rounds, its winner, and the winner's layers; a proof for each round."""
    rounds = [round_entry(searches, index, proof) for index, proof in enumerate(proofs)]
    winner = winning_round(searches)
    dense, ticket = (
        [result.test_predictions for result in _rounds(searches)[index]] for index in (0, winner)
    )
    gap = difference(dense, ticket, labels)
    return {
        "structure": name,
        "block": list(searches[0].config.block),
        "rounds": rounds,
        "winner": {
            **rounds[winner],
            "matched_on_validation": _matches_on_validation(searches, winner),
            "matched": matched(gap.points),
            "difference_points": {"value": gap.points, "low": gap.low, "high": gap.high},
        },
        "layers": [
            {"layer": layer.pop("name"), **layer} for layer in proofs[winner].swap.to_json()["layers"]
        ],
    }


def headline(structures: Sequence[Entry], subject: str, batch: int) -> dict[str, Any]:
    """The top-level figures: of the winners that match on validation the fastest; if none does, the fastest.

    Like the round, the structure is not chosen by test accuracy. `subject` says in words what was pruned.
    """
    chosen = max(structures, key=_rank)
    winner = chosen["winner"]
    found = {
        "structure": chosen["structure"],
        "accuracy_dense": chosen["rounds"][0]["accuracy"],
        "accuracy_ticket": winner["accuracy"],
        "batch": batch,
        **{
            name: winner[name]
            for name in (
                "matched",
                "difference_points",
                "sparsity",
                "speedup_vs_torch",
                "speedup_vs_best_dense",
            )
        },
    }
    count = len(winner["seeds"])
    few = f" From {count} seed{'s' if count > 1 else ''}; a match is claimed from {SEEDS_TO_MATCH} on."
    claimed = not found["matched"] or count >= SEEDS_TO_MATCH
    return {"verdict": verdict(found, subject) + ("" if claimed else few), **found}


def verdict(found: Entry, subject: str) -> str:
    """The headline in one sentence: what happened to accuracy, and to time."""
    where = f"at {100 * found['sparsity']:.1f} % sparsity ({found['structure']})"
    accuracies = f"{100 * found['accuracy_dense']:.2f} % dense, {100 * found['accuracy_ticket']:.2f} % sparse"
    gap = found["difference_points"]
    change = f"{gap['value']:+.2f} points, {gap['low']:+.2f} to {gap['high']:+.2f}"
    speed = _speed(found["speedup_vs_best_dense"], found["speedup_vs_torch"])
    if found["matched"]:
        link = "and" if found["speedup_vs_best_dense"]["low"] > 1 else "but"
        return f"{subject} {where} keeps its accuracy ({accuracies}: {change}) {link} {speed}."
    return f"Not matched: {subject} {where} changes its accuracy ({accuracies}: {change}); it {speed}."


def _speed(best: Mapping[str, float], torch: Mapping[str, float]) -> str:
    rival = "the best dense implementation on this machine"
    rest = f"{torch['value']:.2f}x against eager torch"
    interval = f"{best['low']:.2f} to {best['high']:.2f}"
    if best["low"] > 1:
        return f"runs {best['value']:.2f}x as fast as {rival} ({interval}), {rest}"
    how = "runs slower than" if best["high"] < 1 else "is not measurably faster than"
    return f"{how} {rival} ({best['value']:.2f}x, {interval}), {rest}"


def _rank(entry: Entry) -> tuple[bool, float]:
    return entry["winner"]["matched_on_validation"], entry["winner"]["speedup_vs_best_dense"]["value"]


def _rounds(searches: Sequence[Search]) -> list[tuple[RoundResult, ...]]:
    """Results by round: entry i holds round i of every seed."""
    return list(zip(*(search.rounds for search in searches), strict=True))
