"""Masks over ranks, by two processes that talk through gloo: see tests/rank_worker.py for what they check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rank_worker
import torch
import torch.distributed as dist

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
WORKER = Path(rank_worker.__file__)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What each of the two ranks says of every check."""
    command = [sys.executable, str(WORKER)]
    rendezvous = str(tmp_path_factory.mktemp("ranks") / "rendezvous")
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[1])}
    ranks = [
        subprocess.Popen(
            [*command, str(rank), rendezvous], stdout=subprocess.PIPE, text=True, env=environment
        )
        for rank in range(2)
    ]
    try:
        return [json.loads(rank.communicate(timeout=120)[0]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


@pytest.mark.parametrize("check", [check.__name__ for check in rank_worker.CHECKS])
def test_two_ranks_are_one_process(check: str, reports: list[dict[str, str]]) -> None:
    assert [report[check] for report in reports] == ["", ""]


def test_the_digest_knows_names_shapes_and_bits() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    others = [{"v": mask}, {"w": mask.flatten()}, {"w": ~mask}, {"w": mask, "v": mask}]
    digests = [rank_worker.masks_digest(masks) for masks in ({"w": mask}, *others)]
    assert len(set(digests)) == 5 and digests[0] == rank_worker.masks_digest({"w": mask.clone()})
