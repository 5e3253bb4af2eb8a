"""From searches to the headline: which round wins, which structure is shown, what the verdict says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsekern.cli import summary
from sparsekern.cli.prove import Proof
from sparsekern.nn import LayerReport, SwapReport
from sparsekern.tickets import RoundResult, Search, SearchConfig

BEST = "the best dense implementation on this machine"
LABELS = torch.zeros(1000, dtype=torch.int64)


def result(round_: int, val: float, test: float, kind: str = "ticket") -> RoundResult:
    predictions = torch.ones(1000, dtype=torch.uint8)
    predictions[: round(1000 * test)] = 0
    mask = torch.zeros(100, dtype=torch.bool)
    mask[: 100 - 10 * round_] = True
    return RoundResult(
        curve=(),
        early_stop_step=100 * round_,
        val_accuracy=val,
        test_loss=0.5,
        test_accuracy=test,
        test_predictions=predictions,
        state={},
        final={},
        seconds=1.0,
        kind=kind,
        round=round_,
        masks={"fc.weight": mask},
    )


def search(*accuracies: tuple[float, float], seed: int = 0) -> Search:
    """A search of (validation, test) accuracies by round; the control is five points worse."""
    rounds = tuple(result(index, val, test) for index, (val, test) in enumerate(accuracies))
    reinit = tuple(result(r.round, r.val_accuracy, r.test_accuracy - 0.05, "reinit") for r in rounds[1:])
    return Search(SearchConfig(rounds=len(rounds) - 1, seed=seed), {}, rounds, {"reinit": reinit})


def proof(speedup: float) -> Proof:
    ratio = {"value": speedup, "low": speedup - 0.1, "high": speedup + 0.1}
    figures = {"speedup_vs_torch": ratio, "speedup_vs_best_dense": ratio, "time_sparse_us": 100 / speedup}
    layers = (LayerReport("fc", "Linear", 0.9, (1, 1), "k", "swapped", "faster", 9.0, 8.0, "onednn", 4.0),)
    return Proof(figures, SwapReport(layers))


def test_the_winner_of_one_seed_is_the_searchs_own() -> None:
    for accuracies in (
        [(0.860, 0.85), (0.870, 0.86), (0.860, 0.85), (0.8599, 0.86)],
        [(0.860, 0.85), (0.850, 0.86), (0.855, 0.85), (0.851, 0.99)],
        [(0.860, 0.85), (0.850, 0.86), (0.850, 0.85)],
    ):
        found = search(*accuracies)
        assert summary.winning_round([found]) == found.winner().round


def test_the_winner_of_several_seeds_is_judged_by_their_mean() -> None:
    first = search((0.860, 0.85), (0.860, 0.85), (0.852, 0.85))
    second = search((0.860, 0.85), (0.860, 0.85), (0.866, 0.85), seed=1)
    third = search((0.860, 0.85), (0.860, 0.85), (0.856, 0.85), seed=2)
    assert first.winner().round == 1 and second.winner().round == 2
    assert summary.winning_round([first, second]) == 1  # round 2: 0.859, below 0.860
    assert summary.winning_round([second, third]) == 2  # round 2: 0.861


def test_round_entries_are_means_over_the_seeds() -> None:
    searches = [search((0.86, 0.85), (0.84, 0.80)), search((0.86, 0.85), (0.85, 0.90), seed=1)]
    entry = summary.round_entry(searches, 1, proof(2.0))
    assert entry["accuracy"] == pytest.approx(0.85) and entry["seeds"] == [0.80, 0.90]
    assert entry["accuracy_reinit"] == pytest.approx(0.80) and entry["val_accuracy"] == pytest.approx(0.845)
    assert entry["sparsity"] == pytest.approx(0.1) and entry["early_stop_step"] == 100
    assert "accuracy_reinit" not in summary.round_entry(searches, 0, proof(1.0))


def test_a_structure_holds_its_winner_and_its_layers() -> None:
    entry = summary.structure_entry(
        "unstructured", [search((0.86, 0.850), (0.86, 0.847))], [proof(1.0), proof(3.0)], LABELS
    )
    assert entry["block"] == [1, 1] and [r["round"] for r in entry["rounds"]] == [0, 1]
    winner = entry["winner"]
    assert winner["round"] == 1 and winner["matched"] is False
    assert winner["difference_points"]["value"] == pytest.approx(-0.3)
    assert winner["difference_points"]["low"] < -0.3 < winner["difference_points"]["high"]
    (layer,) = entry["layers"]
    assert layer["layer"] == "fc" and layer["decision"] == "swapped" and "name" not in layer
    assert layer["dense_us"] == 8.0 and "bytes_dense" not in layer


def entry(name: str, matched: bool, speedup: float, validation: float = 0.86) -> dict[str, Any]:
    test = 0.85 if matched else 0.80
    found = search((0.86, 0.85), (validation, test))
    return summary.structure_entry(name, [found], [proof(1.0), proof(speedup)], LABELS)


def test_the_headline_is_the_fastest_of_those_that_match_on_validation() -> None:
    structures = [entry("a", True, 2.0), entry("b", True, 2.5), entry("c", True, 9.0, validation=0.80)]
    found = summary.headline(structures, "net on data", 256)
    assert found["structure"] == "b" and found["matched"] is True and found["batch"] == 256
    assert found["speedup_vs_best_dense"]["value"] == 2.5
    assert (found["accuracy_dense"], found["accuracy_ticket"]) == (0.85, 0.85)
    assert found["verdict"] == (
        "net on data at 10.0 % sparsity (b) keeps its accuracy (85.00 % dense, 85.00 % sparse: "
        f"+0.00 points, +0.00 to +0.00) and runs 2.50x as fast as {BEST} (2.40 to 2.60), "
        "2.50x against eager torch. From 1 seed; a match is claimed from 5 on."
    )


def test_five_seeds_claim_a_match() -> None:
    found = [search((0.86, 0.85), (0.86, 0.85), seed=seed) for seed in range(5)]
    made = summary.structure_entry("a", found, [proof(1.0), proof(2.0)], LABELS)
    assert summary.headline([made], "net", 1)["verdict"].endswith("against eager torch.")


def test_test_accuracy_does_not_choose_the_structure() -> None:
    structures = [entry("a", True, 2.0), entry("b", False, 3.0)]
    assert [one["winner"]["matched"] for one in structures] == [True, False]
    assert all(one["winner"]["matched_on_validation"] for one in structures)
    found = summary.headline(structures, "net", 1)
    assert found["structure"] == "b" and found["verdict"].startswith("Not matched")
    assert not entry("c", True, 1.0, validation=0.80)["winner"]["matched_on_validation"]


def test_sparsity_is_the_mean_over_seeds() -> None:
    first, second = search((0.86, 0.85), (0.86, 0.85)), search((0.86, 0.85), (0.86, 0.85), seed=1)
    second.rounds[1].masks["fc.weight"][:10] = False
    sparsities = [found.rounds[1].sparsity for found in (first, second)]
    assert sparsities == pytest.approx([0.1, 0.2])
    assert summary.round_entry([first, second], 1, proof(1.0))["sparsity"] == pytest.approx(0.15)


def test_a_speedup_without_the_accuracy_is_not_matched() -> None:
    found = summary.headline([entry("a", False, 3.0), entry("b", False, 4.0)], "net on data", 256)
    assert found["structure"] == "b" and found["matched"] is False
    gap = found["difference_points"]
    assert found["verdict"].startswith(
        "Not matched: net on data at 10.0 % sparsity (b) changes its accuracy (85.00 % dense, "
        f"80.00 % sparse: -5.00 points, {gap['low']:+.2f} to {gap['high']:+.2f}); it runs 4.00x as fast"
    )


@pytest.mark.parametrize(
    ("speedup", "words"),
    [
        (1.05, f"but is not measurably faster than {BEST} (1.05x, 0.95 to 1.15)"),
        (0.5, f"but runs slower than {BEST} (0.50x, 0.40 to 0.60)"),
        (1.2, f"and runs 1.20x as fast as {BEST} (1.10 to 1.30)"),
    ],
)
def test_the_verdict_claims_no_more_than_the_interval(speedup: float, words: str) -> None:
    assert words in summary.headline([entry("a", True, speedup)], "net", 1)["verdict"]
