"""Real masks, on a collection small enough to write by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bench_results import result
from numpy.typing import NDArray

from sparsekern.cli import main
from sparsekern.cli.bench import dlmc, limit
from sparsekern.cli.bench.cases_linear import LinearCase

ROWS = {"conv_a": 5, "conv_b": 9, "dense": 1}
SHAPES = {"conv_a": (8, 12), "conv_b": (16, 27), "dense": (10, 64)}


def masks(seed: int) -> dict[str, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return {name: rng.random(shape) > 0.8 for name, shape in SHAPES.items()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """shared/data, with the collection in dlmc/."""
    monkeypatch.setattr(limit, "_read_gbs", lambda nbytes: 20.0)
    monkeypatch.delenv("SPARSEKERN_DATA", raising=False)
    inside = tmp_path / "shared" / "data" / "dlmc"
    inside.mkdir(parents=True)
    for seed in (0, 1):
        arrays: dict[str, NDArray[np.generic]] = {}
        for name, mask in masks(seed).items():
            arrays[name] = np.packbits(mask, axis=1)
            arrays[f"{name}.shape"] = np.array(mask.shape)
        np.savez(inside / f"net{seed}.npz", **arrays)  # type: ignore[arg-type]
    (inside / dlmc.INDEX).write_text(json.dumps([{"file": f"net{seed}.npz"} for seed in (0, 1)]))
    (inside / dlmc.ROWS).write_text("".join(f"{name},{count}\n" for name, count in ROWS.items()))
    return inside.parent


def test_layers_are_read_as_they_were_packed(folder: Path) -> None:
    for named in (folder, folder / "dlmc"):
        found = dlmc.layers(named)
        assert [(layer.file, layer.name) for layer in found] == [
            (f"net{seed}.npz", name) for seed in (0, 1) for name in SHAPES
        ]
        for layer in found:
            want = masks(int(layer.file[3]))[layer.name]
            assert np.array_equal(layer.mask.numpy(), want) and layer.rows == ROWS[layer.name]
    assert [layer.name for layer in dlmc.layers(folder, 2)] == ["conv_a", "conv_b"] * 2
    assert len(dlmc.layers(folder, 99)) == 6


def test_the_folder_is_found_by_environment_or_beside_the_project(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parents[1] / "project").mkdir()
    monkeypatch.chdir(folder.parents[1] / "project")
    assert len(dlmc.layers()) == 6
    monkeypatch.setenv("SPARSEKERN_DATA", str(folder.parents[1]))
    with pytest.raises(ValueError, match=r"expected index.json and rn50_batchsizes.txt in .*"):
        dlmc.layers()
    monkeypatch.setenv("SPARSEKERN_DATA", str(folder))
    assert len(dlmc.layers()) == 6


def test_a_run_that_was_cut_off_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.jsonl"
    arguments = ["--preset", "dlmc", "--data-dir", str(folder), "--budget", "0.001", "--json", str(path)]
    assert main(["bench", "linear", *arguments]) == 0
    whole = path.read_text("utf-8")
    path.write_text(whole[: 2 * len(whole) // 3], "utf-8")
    kept = path.read_text("utf-8").count("\n")
    capsys.readouterr()
    assert main(["bench", "linear", *arguments, "--resume"]) == 0
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) == whole.count("\n") > kept and lines[0] == whole.splitlines()[0]
    found = {
        (record["problem"]["file"], record["problem"]["layer"], record["provider"])
        for record in map(json.loads, lines)
    }
    assert len(found) == len(lines)
    said = capsys.readouterr().out
    assert "net0.npz\n" not in said and "net1.npz\n" in said
    assert main(["bench", "linear", *arguments, "--resume"]) == 0  # nothing is left
    assert path.read_text("utf-8").splitlines() == lines


def test_a_run_prints_each_layer_and_the_distribution(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.jsonl"
    arguments = ["--preset", "dlmc", "--data-dir", str(folder), "--budget", "0.001", "--json", str(path)]
    assert main(["bench", "linear", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    for seed in (0, 1):
        zeros = f"{100 * (1 - masks(seed)['conv_b'].mean()):.4g} %"
        assert f"net{seed}.npz" in lines and any(zeros in line for line in lines)
    assert sum(line.startswith("| conv_b 9 x 16 x 27 |") for line in lines) == 2
    assert sum(line.startswith("| against best dense |") for line in lines) == 2
    assert sum(line.startswith("| against the better torch CSR |") for line in lines) == 2
    assert "bsr_linear us" not in "".join(lines)
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    problem = records[-1]["problem"]
    assert (problem["file"], problem["layer"], problem["m"]) == ("net1.npz", "dense", 1)
    assert problem["sparsity"] == pytest.approx(1 - masks(1)["dense"].mean())


def test_the_distribution_of_a_file() -> None:
    case = LinearCase(1, 8, 8, 0.5, (1, 1))
    found = {
        f"layer{index}": result(case, torch=99.0, onednn=10.0 * index, csr_linear=30.0, sparsekern=10.0)
        for index in range(1, 12)
    }
    found["slow"] = result(case, torch=5.0, csr_matmul=8.0, sparsekern=10.0)
    lines = list(dlmc.distribution(found))
    assert lines[2] == (
        "| against best dense | 0.50x | 1.10x | 5.50x | 9.81x | 9.90x | 10 of 12 (83.33 %) | 5.44x |"
    )
    assert lines[3].startswith("| against the better torch CSR | 0.80x | 3.00x | 3.00x |")
    assert [line for line in lines if "lost" in line] == [
        "- lost: layer1: 1.00x against best dense",
        "- lost: slow: 0.50x against best dense",
        "- lost: slow: 0.80x against the better torch CSR",
    ]


def test_where_nothing_can_be_compared_nothing_is_claimed() -> None:
    found = {"a": result(LinearCase(1, 8, 8, 0.5, (1, 1)), torch=3.0, sparsekern=1.0)}
    lines = list(dlmc.distribution(found))
    assert lines[3] == f"| against the better torch CSR |{' n/a |' * 7}" and "- no layer lost" in lines


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("index.json", b"{", "index.json: expected a list of"),
        ("index.json", b'["net0.npz"]', "index.json: expected a list of"),
        ("index.json", b"[]", "index.json: names no layer"),
        ("index.json", b'[{"file": "gone.npz"}]', "gone.npz"),
        (
            "rn50_batchsizes.txt",
            b"conv_a,many\n",
            "expected lines of a name and a number such as",
        ),
        ("rn50_batchsizes.txt", b"conv_a,5\n", "net0.npz, conv_b: expected its rows in rn50_batchsizes.txt"),
        ("net0.npz", b"PK\x03\x04 broken", "net0.npz: expected an .npz file of arrays"),
        ("net0.npz", b"text", "net0.npz: expected an .npz file of arrays"),
    ],
)
def test_a_broken_collection_is_one_line(
    folder: Path, file: str, content: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "dlmc" / file).write_bytes(content)
    assert main(["bench", "linear", "--preset", "dlmc", "--data-dir", str(folder)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and words in said.err


def test_bits_that_do_not_fit_their_shape_are_refused(folder: Path) -> None:
    for arrays in (
        {"a": np.zeros((8, 2), np.uint8)},
        {"a": np.zeros((8, 2), np.uint8), "a.shape": np.array((8, 17))},
        {"a": np.zeros((8, 2), np.int64), "a.shape": np.array((8, 16))},
        {"a": np.zeros((8, 2), np.uint8), "a.shape": np.array((8, 16, 1))},
        {"a": np.zeros((0, 0), np.uint8), "a.shape": np.array((0, 0))},
    ):
        np.savez(folder / "dlmc" / "net0.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"net0.npz, a: expected"):
            dlmc.layers(folder)
