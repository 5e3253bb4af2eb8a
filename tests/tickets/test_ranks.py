"""Two processes that train together find what one finds with the joined batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsekern.tickets import SearchConfig, Training, search, task
from sparsekern.tickets import ranks as module
from sparsekern.tickets.results import load_result
from sparsekern.zoo import dataset, model

CONFIG = SearchConfig(task(iterations=6, eval_every=3), rounds=2, seed=1)
CHILD = """
import sys, torch
import torch.distributed as dist
from sparsekern.tickets import SearchConfig, search, training
torch.set_num_threads(1)
dist.init_process_group("gloo")
config = SearchConfig.from_json(sys.argv[1])
evaluate, evaluations = training.evaluate, []
training.evaluate = lambda *given: evaluations.append(evaluate(*given)) or evaluations[-1]
found = search(config, out=sys.argv[2])
assert len(evaluations) == (0 if dist.get_rank() else 5 * 3), len(evaluations)
losses = [None, None]
dist.all_gather_object(losses, [(*one.curve, one.test_loss) for one in found.rounds])
assert losses[0] == losses[1], losses
again = search(config, out=sys.argv[2], progress=lambda e: print(e["event"], e.get("resumed"), flush=True))
assert all(a.masks[n].equal(b.masks[n]) for a, b in zip(found.rounds, again.rounds) for n in a.masks)
training.evaluate = lambda *given: 1 / 0
try:
    search(config)
except (ZeroDivisionError, RuntimeError) as error:
    told = "rank 0: ZeroDivisionError('division by zero')" if dist.get_rank() else "division by zero"
    assert str(error) == told, error
else:
    raise AssertionError("an error of rank 0 is expected on every rank")
dist.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_ranks_find_the_masks_of_one_process(tmp_path: Path) -> None:
    surroundings = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
    }
    command = [sys.executable, "-c", CHILD, CONFIG.to_json(), str(tmp_path)]
    children = [
        subprocess.Popen(command, env={**surroundings, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    said = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert said[1] == "" and said[0].splitlines() == ["done True"] * 5  # rank 0 speaks, writes and reads
    alone = search(CONFIG)
    labels = dataset(CONFIG.task.data).test_y
    for result in alone.rounds:
        path = tmp_path / CONFIG.digest / f"ticket-{result.round:02}.safetensors"
        both = load_result(path, "ticket", result.round, result.masks, CONFIG, labels)
        for name, value in result.final.items():
            assert torch.allclose(both.final[name], value, atol=1e-5)


def test_a_batch_that_ranks_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "world", lambda: 7)
    data = dataset("fashion-mnist-6k")
    with pytest.raises(ValueError, match="a batch that 7 ranks can share is expected, got 60"):
        Training(model("lenet300"), {}, data, CONFIG.task.recipe, (0,))
