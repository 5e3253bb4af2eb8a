"""Killed and resumed: bit for bit the uninterrupted search, and no file is trusted unread."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from ticket_checks import same
from torch import Tensor

from sparsekern.bench import tensor_files
from sparsekern.tickets import Search, SearchConfig, lab, search, task
from sparsekern.tickets import files as module
from sparsekern.tickets.checkpoint import Checkpoint
from sparsekern.tickets.results import load_result
from sparsekern.zoo import dataset

CONFIG = SearchConfig(task(iterations=6, eval_every=2), rounds=2)
LABELS = dataset(CONFIG.task.data).test_y

KILLED_WHILE_TRAINING = """
def progress(event):
    if (event["event"], event["kind"], event["round"]) == ("eval", "ticket", 2):
        os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_BEFORE_THE_RENAME = """
replace = os.replace
def last_straw(source, target):
    if "ticket-01" in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = last_straw
progress = None
"""
CHILD = """
import os, signal, sys, torch
torch.set_num_threads(int(sys.argv[3]))
from sparsekern.tickets import SearchConfig, search
{}
search(SearchConfig.from_json(sys.argv[1]), out=sys.argv[2], progress=progress)
"""


def assert_same_search(a: Search, b: Search) -> None:
    for left, right in zip(
        (*a.rounds, *a.controls["reinit"]), (*b.rounds, *b.controls["reinit"]), strict=True
    ):
        assert (left.kind, left.round, left.curve) == (right.kind, right.round, right.curve)
        assert list(left.masks) == list(right.masks)
        assert (
            same(left.masks, right.masks) and same(left.state, right.state) and same(left.final, right.final)
        )
        assert torch.equal(left.test_predictions, right.test_predictions)
        assert left.test_loss == right.test_loss and left.early_stop_step == right.early_stop_step


def resumed(out: Path, config: SearchConfig = CONFIG) -> tuple[Search, list[bool]]:
    """The search in folder `out`, and for each run whether it was read back."""
    seen: list[bool] = []
    found = search(
        config, out=out, progress=lambda e: seen.append(e["resumed"]) if e["event"] == "done" else None
    )
    return found, seen


@pytest.fixture(scope="module")
def straight() -> Search:
    return search(CONFIG)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search, not to be touched."""
    out = tmp_path_factory.mktemp("finished")
    search(CONFIG, out=out)
    return out / CONFIG.digest


@pytest.fixture
def kept(finished: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a finished search."""
    return Path(shutil.copytree(finished, tmp_path / CONFIG.digest))


@pytest.mark.parametrize(
    ("trap", "survived"),
    [
        (KILLED_WHILE_TRAINING, ["reinit-01", "ticket-00", "ticket-01"]),
        (KILLED_BEFORE_THE_RENAME, ["ticket-00"]),
    ],
    ids=["training", "renaming"],
)
def test_a_killed_search_goes_on_to_the_same_bits(
    trap: str, survived: list[str], tmp_path: Path, straight: Search
) -> None:
    child = [
        sys.executable,
        "-c",
        CHILD.format(trap),
        CONFIG.to_json(),
        str(tmp_path),
        str(torch.get_num_threads()),
    ]
    assert subprocess.run(child, check=False).returncode == -9
    folder = tmp_path / CONFIG.digest
    assert sorted(path.stem for path in folder.glob("*.safetensors")) == survived
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Nothing that a kill leaves behind may need repair.
        found, seen = resumed(tmp_path)
    assert sum(seen) == len(survived)
    assert_same_search(found, straight)
    runs = ("reinit-01", "reinit-02", "ticket-00", "ticket-01", "ticket-02")
    assert sorted(path.name for path in folder.iterdir()) == [
        "log.jsonl",
        *(f"{name}.safetensors" for name in runs),
    ]


def test_a_finished_search_is_read_back_and_a_longer_one_goes_on(kept: Path, straight: Search) -> None:
    found, seen = resumed(kept.parent)
    assert seen == [True] * 5
    assert_same_search(found, straight)
    longer, seen = resumed(kept.parent, replace(CONFIG, rounds=3))
    assert seen == [True] * 5 + [False] * 2 and len(longer.rounds) == 4


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_damaged_file_is_reported_and_its_run_repeated(damage: str, kept: Path, straight: Search) -> None:
    path = kept / "ticket-01.safetensors"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-100_000] ^= 1
    contents = {
        "truncated": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "empty": b"",
        "foreign": b"PK" * 99,
    }
    path.write_bytes(contents[damage])
    with pytest.warns(RuntimeWarning, match=r"ticket-01\.safetensors.*this run is repeated") as caught:
        found, seen = resumed(kept.parent)
    assert [one.filename for one in caught] == [__file__]  # who called `search`
    assert seen == [True, False, True, True, True]
    assert_same_search(found, straight)
    assert load_result(path, "ticket", 1, straight.rounds[1].masks, CONFIG, LABELS).round == 1


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search stopped in round 1 after 4 steps, with a checkpoint; not to be touched."""
    out = tmp_path_factory.mktemp("stopped")

    def stop(event: Mapping[str, object]) -> None:
        if (event["event"], event["round"], event.get("step")) == ("eval", 1, 4):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lab, "Checkpoint", partial(Checkpoint, every_s=0))
        search(CONFIG, out=out, progress=stop)
    return out / CONFIG.digest


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "training/model/fc1.weight",
            (300, 7),
            r"fc1\.weight of shape \(300, 784\) expected, got \(300, 7\)",
        ),
        ("training/model/fc4.weight", (3,), r"tensors \['fc1\.bias', .* expected, got .*'fc4\.weight'\]"),
        ("training/optimizer/2/exp_avg", (300, 7), "optimizer/2/exp_avg of the shape of its parameter"),
        ("training/optimizer/6/exp_avg", (10,), "optimizer/6/exp_avg of the shape of its parameter"),
        ("best/fc3.bias", (11,), r"fc3\.bias of shape \(10,\) expected, got \(11,\)"),
    ],
)
def test_a_checkpoint_that_fits_no_network_is_reported_and_its_run_repeated(
    name: str, shape: tuple[int, ...], message: str, stopped: Path, tmp_path: Path, straight: Search
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / CONFIG.digest))
    path = folder / "ticket-01.progress"
    tensors, header = module.read(path, "progress")
    module.write(path, "progress", {**tensors, name: torch.zeros(shape)}, header)
    with pytest.warns(RuntimeWarning, match=rf"ticket-01\.progress: .*{message}.*repeated") as caught:
        found, seen = resumed(tmp_path)
    assert [one.filename for one in caught] == [__file__]
    assert seen == [True] + [False] * 4 and not path.exists()
    assert_same_search(found, straight)


def test_a_file_of_another_round_or_code_version_is_not_taken(
    kept: Path, straight: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The control of a round has the masks of its ticket: only the name in the header tells them apart.
    (kept / "reinit-01.safetensors").write_bytes((kept / "ticket-01.safetensors").read_bytes())
    with pytest.warns(RuntimeWarning, match="run reinit of round 1 expected, got 'ticket' of round 1"):
        found, _ = resumed(kept.parent)
    assert_same_search(found, straight)
    other = straight.rounds[1].masks
    with pytest.raises(ValueError, match="its masks are not those that the round before leads to"):
        load_result(kept / "ticket-02.safetensors", "ticket", 2, other, CONFIG, LABELS)
    monkeypatch.setattr(tensor_files, "__version__", "0.0.0")
    path = kept / "ticket-00.safetensors"
    tensors, header = module.read(path, "round")
    module.write(path, "round", tensors, header)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"code .* expected, got .* and 0\.0\.0"):
        load_result(path, "ticket", 0, straight.rounds[0].masks, CONFIG, LABELS)


def test_figures_that_contradict_the_predictions_are_refused(kept: Path, straight: Search) -> None:
    path = kept / "ticket-01.safetensors"
    tensors, header = module.read(path, "round")
    predictions = tensors["test_predictions"]
    changes: list[tuple[dict[str, Tensor], dict[str, object], str]] = [
        ({}, {"test_accuracy": 0.99}, "from its predictions, got 0.99"),
        ({"test_predictions": predictions[:-1].clone()}, {}, r"uint8 of shape \(1000,\) expected"),
        ({"test_predictions": predictions.to(torch.int64)}, {}, "got torch.int64"),
        ({}, {"curve": [[2, 0.5]]}, "curve points"),
    ]
    for tensor_change, header_change, message in changes:
        module.write(path, "round", {**tensors, **tensor_change}, {**header, **header_change})
        with pytest.raises(ValueError, match=message):
            load_result(path, "ticket", 1, straight.rounds[1].masks, CONFIG, LABELS)


def test_a_file_tells_where_it_came_from(kept: Path) -> None:
    _, header = module.read(kept / "reinit-02.safetensors", "round")
    assert SearchConfig.from_json(header["config"]) == CONFIG
    assert (header["run"], header["round"]) == ("reinit", 2) and len(header["curve"]) == 3
    assert json.loads(header["config"])["task"]["model"] == "lenet300"
