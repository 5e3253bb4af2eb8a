"""Real masks as the convolutions that they are: geometry by name, columns in the right order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsekern.cli import main
from sparsekern.cli.bench import dlmc, dlmc_conv, limit
from sparsekern.cli.bench.presets_conv import ConvShape

# name -> rows, (outputs, columns), what it is: the sizes of ResNet-50 on images of 32 pixels, narrower.
LAYERS = {
    "initial_conv": (256, (4, 147), ConvShape((3, 4), 7, 32, 2, 3)),
    "bottleneck_1_block_group_projection_block_group1": (64, (4, 4), ConvShape((4, 4), 1, 8, 1, 0)),
    "bottleneck_2_block_group_projection_block_group1": (64, (4, 36), ConvShape((4, 4), 3, 8, 1, 1)),
    "bottleneck_projection_block_group_projection_block_group1": (
        64,
        (16, 4),
        ConvShape((4, 16), 1, 8, 1, 0),
    ),
    "bottleneck_1_block_group_projection_block_group2": (64, (8, 16), ConvShape((16, 8), 1, 8, 1, 0)),
    "bottleneck_2_block_group_projection_block_group2": (16, (8, 72), ConvShape((8, 8), 3, 8, 2, 1)),
    "bottleneck_projection_block_group_projection_block_group2": (
        16,
        (32, 16),
        ConvShape((16, 32), 1, 8, 2, 0),
    ),
    "bottleneck_2_block_group2_1_1": (16, (8, 72), ConvShape((8, 8), 3, 4, 1, 1)),
    "final_dense": (1, (10, 32), None),
}


def layer(name: str, rows: int, shape: tuple[int, int], mask: torch.Tensor | None = None) -> dlmc.Layer:
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    return dlmc.Layer("net.npz", name, rows, shape, np.packbits(mask.numpy(), axis=1).tobytes())


def test_a_layers_geometry_follows_from_its_name_and_rows() -> None:
    found = [layer(name, rows, shape) for name, (rows, shape, _) in LAYERS.items()]
    convolutions = dlmc_conv.convolutions(found)
    assert [one.name for one in convolutions] == [name for name in LAYERS if name != "final_dense"]
    for one in convolutions:
        assert dlmc_conv.shape_of(one) == LAYERS[one.name][2], one.name


def test_columns_are_kernel_rows_then_kernel_columns_then_inputs() -> None:
    kernel = torch.zeros(2, 4, 3, 3, dtype=torch.bool)  # (out, in, kh, kw)
    kernel[1, 2, 0, 1] = kernel[0, 3, 2, 0] = True
    matrix = torch.zeros(2, 36, dtype=torch.bool)
    matrix[1, (0 * 3 + 1) * 4 + 2] = matrix[0, (2 * 3 + 0) * 4 + 3] = True
    one = layer("bottleneck_2_block_group1_1_1", 16, (2, 36), matrix)
    assert torch.equal(dlmc_conv.mask_of(one, dlmc_conv.shape_of(one)), kernel)


@pytest.mark.parametrize(
    ("name", "rows", "shape", "words"),
    [
        ("attention", 16, (4, 4), "attention: expected the name of a layer of ResNet-50"),
        ("bottleneck_1_block_group1_1_1", 15, (4, 4), "expected a square map .* got 15 rows and 4 columns"),
        ("bottleneck_2_block_group1_1_1", 16, (4, 10), "3x3 weights for each input, got 16 rows and 10"),
    ],
)
def test_what_is_no_layer_of_resnet50_is_refused(
    name: str, rows: int, shape: tuple[int, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        dlmc_conv.shape_of(layer(name, rows, shape))


def test_the_real_collection_is_a_resnet50() -> None:
    try:
        found = dlmc_conv.convolutions(dlmc.layers())
    except ValueError as error:
        pytest.skip(str(error))
    shapes = [dlmc_conv.shape_of(one) for one in found if one.file == found[0].file]
    assert len(shapes) == 53 and sum(shape.stride == 2 for shape in shapes) == 7
    assert {shape.map for shape in shapes} == {224, 56, 28, 14, 7}
    weights = sum(shape.channels[0] * shape.channels[1] * shape.kernel**2 for shape in shapes)
    assert weights == 23_454_912  # those of ResNet-50 but for its classifier


def test_a_run_prints_a_table_for_each_file_and_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limit, "_read_gbs", lambda nbytes: 20.0)
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for name, (_, shape, _) in LAYERS.items():
        arrays[name] = np.packbits(rng.random(shape) > 0.8, axis=1)
        arrays[f"{name}.shape"] = np.array(shape)
    np.savez(tmp_path / "net.npz", **arrays)
    (tmp_path / dlmc.INDEX).write_text(json.dumps([{"file": "net.npz"}]))
    (tmp_path / dlmc.ROWS).write_text("".join(f"{name},{rows}\n" for name, (rows, *_) in LAYERS.items()))
    path = tmp_path / "out.jsonl"
    arguments = ["--data-dir", str(tmp_path), "--budget", "0.001", "--batch", "1", "2", "--json", str(path)]
    assert main(["bench", "conv2d", "--preset", "dlmc", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "net.npz, batch 1" in lines and "net.npz, batch 2" in lines
    name = "bottleneck_2_block_group_projection_block_group2"
    assert sum(text.startswith(f"| {name} 2 x 8 x 8 x 8, 3x3 stride 2 to 8 |") for text in lines) == 1
    assert not any("final_dense" in text for text in lines)
    assert sum(text.startswith("| against best dense |") for text in lines) == 2
    assert sum(" layers kept dense: " in text for text in lines) == 2
    assert any(text.startswith("- kept dense: ") for text in lines)
    records = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    problem = records[-1]["problem"]
    assert (problem["op"], problem["file"], problem["batch"]) == ("conv2d", "net.npz", 2)
    assert "sparseprop" not in {record["provider"] for record in records}


def test_without_the_collection_one_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "conv2d", "--preset", "dlmc", "--data-dir", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("sparsekern: no Deep Learning Matrix Collection")
