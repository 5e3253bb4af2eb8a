"""What is to be found: options over the TOML file over the defaults; nothing unknown passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsekern.cli import _parser
from sparsekern.cli.study import Study, configs_of, read, study_of
from sparsekern.cli.sweep import combinations

TEXT = """
model = "lenet300"
data = "mnist"
seed = 3
seeds = 2
blocks = ["unstructured", "8x1"]
batch = 32

[recipe]
iterations = 700
drops = [300, 500]

[search]
rounds = 16
controls = ["random", "regroup:8x1"]
"""


def study(*arguments: str) -> Study:
    return study_of(_parser().parse_args(["run", *arguments]))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(TEXT)
    return path


def test_without_a_word_it_is_the_small_study() -> None:
    found = study()
    assert (found.task.model, found.task.data, found.batch) == ("lenet300", "fashion-mnist-6k", 256)
    assert {name: configs[0].block for name, configs in found.configs.items()} == {
        "unstructured": (1, 1),
        "16x1": (16, 1),
    }
    assert found.seeds == [0]
    (config,) = found.configs["16x1"]
    assert (config.rounds, config.rate, config.controls) == (12, 0.2, ("reinit",))


def test_a_file_says_all_of_it(file: Path) -> None:
    found = study(str(file))
    assert found.seeds == [3, 4] and found.batch == 32
    assert list(found.configs) == ["unstructured", "8x1"]
    config = found.configs["8x1"][1]
    assert (config.seed, config.block, config.rounds) == (4, (8, 1), 16)
    assert config.controls == ("random", "regroup:8x1")
    recipe = found.task.recipe
    assert (recipe.iterations, recipe.drops, recipe.lr) == (700, (300, 500), 1.2e-3)


def test_options_win_over_the_file(file: Path) -> None:
    found = study(
        str(file), "--rounds", "4", "--block", "32x1", "--seeds", "1", "--iterations", "9", "--controls"
    )
    config = found.configs["32x1"][0]
    assert (config.rounds, config.controls, config.seed) == (4, (), 3)
    assert found.task.recipe.iterations == 9 and list(found.configs) == ["32x1"]
    assert found.task.data == "mnist"


def test_a_network_brings_the_paper_s_rates() -> None:
    found = study("conv6", "--data", "cifar10", "--structure", "unstructured", "--method", "one-shot")
    (config,) = found.configs["unstructured"]
    assert config.conv_rate == 0.15 and config.method == "one-shot"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "a TOML file is expected"),
        ("modle = 'lenet300'", r"unknown keys \['modle'\], expected some of \['model'"),
        ("[search]\nround = 3", r"\[search\]: unknown keys \['round'\]"),
        ("[search]\nseed = 3", r"\[search\]: unknown keys \['seed'\]"),
        ("[recipe]\nepochs = 3", r"unknown recipe fields \['epochs'\]"),
        ("seeds = '3'", "seeds of type int expected, got '3'"),
        ("blocks = ['16']", "blocks: expected a block such as 16x1"),
        ("[search]\ncontrols = ['twins']", "unknown control 'twins'"),
        ("[search]\ncontrols = ['reinit', 'reinit']", "each control once is expected"),
        ("seeds = 0", "seeds of at least 1 expected, got 0"),
        ("batch = -1", "batch of at least 1 expected, got -1"),
        ("blocks = []", "blocks such as"),
        ("blocks = [16]", "blocks such as"),
        ("blocks = ['unstructured', '1x1']", "each block once is expected"),
        ("[recipe]\nlr = 'x'", "a value of another type is expected"),
    ],
)
def test_what_means_nothing_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        study(str(path))


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    arguments: list[Any] = [str(tmp_path / "none.toml")]
    with pytest.raises(ValueError, match="a TOML file is expected"):
        study(*arguments)


STUDIES = sorted((Path(__file__).parents[2] / "examples" / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_that_come_along_are_read(path: Path) -> None:
    values = read(path, more=("sweep",))
    for _, point in combinations(values.pop("sweep", {}), values):
        assert all(config.rounds > 0 for config in configs_of(point))


def test_there_are_studies() -> None:
    assert len(STUDIES) >= 7
