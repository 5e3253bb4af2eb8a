"""`sparsekern bench conv2d`: its options, its cases, its rivals, what it prints and writes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bench_results import result
from torch import Tensor, nn

from sparsekern import cli
from sparsekern.cli import main
from sparsekern.cli.bench import conv2d, limit, rivals_conv
from sparsekern.cli.bench.cases_conv import ConvCase, conv_cases
from sparsekern.cli.bench.measure import FAST_ALGORITHMS
from sparsekern.cli.bench.presets import DTYPES
from sparsekern.cli.bench.presets_conv import MEMORY_FORMATS, PRESETS_CONV2D
from sparsekern.cli.bench.rivals import NEEDS
from sparsekern.cli.bench.rivals_conv import CSR_RIVALS_CONV2D, DENSE_RIVALS_CONV2D, RIVALS_CONV2D
from sparsekern.cli.bench.table import break_evens, row

TINY = ["bench", "conv2d", "--channels", "8x16", "--map", "7", "--kernel", "3", "--budget", "0.001"]


@pytest.fixture(autouse=True)
def known_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "_read_gbs", lambda nbytes: 20.0)


def chosen(*arguments: str) -> list[ConvCase]:
    return conv2d._cases(cli._parser().parse_args(["bench", "conv2d", *arguments]))


def case(**sizes: Any) -> ConvCase:
    usual = {"batch": 2, "channels": (6, 10), "kernel": 3, "map": 9, "stride": 1, "padding": 1, "dilation": 1}
    return ConvCase(**{**usual, "sparsity": 0.6, "block": (1, 1), **sizes})


# ---- cases


def test_options_replace_what_the_preset_says() -> None:
    arguments = ["--channels", "16x32", "--kernel", "5", "3", "--map", "12", "--stride", "2", "--batch", "4"]
    found = chosen(*arguments, "--sparsity", "0.5", "--block", "8x1", "--memory-format", "channels_last")
    assert [str(one) for one in found] == [
        f"n4-16to32-{kernel}x{kernel} stride 2-map12-50%-8x1-float32-channels_last" for kernel in (5, 3)
    ]
    assert [one.padding for one in found] == [2, 1]
    assert [one.padding for one in chosen("--dilation", "2", "--kernel", "3", "--sparsity", "0.5")] == [2, 2]
    assert chosen("--padding", "0", "--dtype", "bfloat16")[0].padding == 0
    assert {one.dtype for one in chosen("--dtype", "bfloat16")} == {"bfloat16"}


def test_the_presets_hold_what_they_promise() -> None:
    goals = chosen("--preset", "goals")
    assert [one.sizes for one in goals] == [
        "1 x 256 x 14 x 14, 3x3 to 256",
        "1 x 256 x 14 x 14, 3x3 to 256",
        "16 x 256 x 14 x 14, 3x3 to 256",
        "1 x 128 x 28 x 28, 3x3 to 128",
        "1 x 64 x 56 x 56, 3x3 to 64",
        "1 x 256 x 14 x 14, 1x1 to 1024",
        "1 x 256 x 14 x 14, 3x3 to 256, channels_last",
        "1 x 256 x 14 x 14, 1x1 to 1024, channels_last",
        "1 x 128 x 28 x 28, 3x3 stride 2 to 256",
        "1 x 256 x 14 x 14, 3x3 dilation 2 to 256",
        "1 x 3 x 224 x 224, 7x7 stride 2 to 64",
        "1 x 64 x 27 x 27, 5x5 to 192",
    ]
    assert [one.sparsity for one in goals] == [0.9, 0.95, *[0.9] * 10]
    assert {one.block for one in goals if one.memory_format == "channels_last"} == {(16, 1)}
    # Padding keeps the map's size at stride 1; (224 + 6 - 7) / 2 + 1.
    assert [one.output_map for one in goals] == [14, 14, 14, 28, 56, 14, 14, 14, 14, 14, 112, 27]
    assert len(chosen("--preset", "full")) == 9 * 2 * 3 * 3 * 6
    assert all(preset.grids for name, preset in PRESETS_CONV2D.items() if name != "dlmc")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"blocks": ((16, 1),), "channels": ((8, 12),)}, "block 16x1 does not fit into a weight of 12x72"),
        (
            {"map": (4,), "padding": (0,), "dilation": (2,)},
            "a kernel of 3 with dilation 2 does not fit into a map of 4 with padding 0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        conv_cases(PRESETS_CONV2D["quick"], given)


def test_a_case_has_exactly_its_share_of_zero_blocks_in_its_format() -> None:
    one = case(channels=(6, 20), block=(8, 1), memory_format="channels_last", dtype="bfloat16")
    weight, bias, x = one.tensors()
    assert weight.shape == one.weight_shape == (20, 6, 3, 3) and bias.shape == (20,)
    assert x.shape == (2, 6, 9, 9) and x.dtype is torch.bfloat16
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in (weight, x))
    alive = F.pad((weight != 0).flatten(1).int(), (0, 0, 0, 4)).view(3, 8, 54).sum(1)  # of each block
    assert int((alive == 0).sum()) == round(0.6 * 162)
    mask = torch.zeros(20, 6, 3, 3, dtype=torch.bool)
    mask[3, 4, 1, 2] = True
    assert torch.equal(one.tensors(mask)[0] != 0, mask)


def test_the_truth_and_its_limits() -> None:
    one = case(stride=2, dilation=2, padding=3)
    tensors = one.tensors()
    weight, bias, x = tensors
    want = one.truth(tensors)
    place = {"stride": 2, "dilation": 2, "padding": 3}
    assert torch.equal(want.y, F.conv2d(x.double(), weight.double(), bias.double(), **place))
    assert want.y.shape == (2, 10, one.output_map, one.output_map) and one.rows == 2 * one.output_map**2
    got = want.y.float()
    assert 0 < want.check(got, torch.float32) < 1e-5
    got[1, 2, 3, 1] += 3 * float(want.limit[1, 2, 3, 1])
    with pytest.raises(ValueError, match="wrong by"):
        want.check(got, torch.float32)
    want.check(got, torch.float32, loose=True)
    got[1, 2, 3, 1] += 1.1 * float(want.loose[1, 2, 3, 1])
    with pytest.raises(ValueError, match="wrong by"):
        want.check(got, torch.float32, loose=True)


def test_the_physical_limit_counts_stored_weights_at_every_position() -> None:
    one = case(channels=(3, 10), kernel=1, padding=0, block=(4, 1))
    weight = torch.zeros(10, 3, 1, 1)
    weight[8, 1] = weight[0, 2] = 1.0  # of blocks of 4, ragged: one of 2 weights, one of 4
    least = limit.limit(one, weight, peak_gflops=0.1, threads=1)
    assert least.flops == 2 * 6 * 2 * 81 and least.time_us == pytest.approx(least.flops / 0.1e3)
    assert least.nbytes == 4 * (6 + 2 * 81 * (3 + 10)) + 2 * 2


# ---- rivals


@pytest.mark.parametrize("memory_format", MEMORY_FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rival", RIVALS_CONV2D)
def test_a_rival_is_right_or_refuses_in_words(rival: str, dtype: str, memory_format: str) -> None:
    for sizes in (
        {},
        {"kernel": 1, "padding": 0},
        {"batch": 1, "kernel": 5, "stride": 2, "padding": 1},
        {"dilation": 2, "block": (4, 1)},
    ):
        one = case(dtype=dtype, memory_format=memory_format, **sizes)
        tensors = one.tensors()
        x = tensors[2]
        with torch.inference_mode():
            call = one.prepare(rival, tensors)
            if isinstance(call, str):
                assert len(call) > 10
            else:
                one.truth(tensors).check(call(x), x.dtype, loose=rival in FAST_ALGORITHMS)


def test_torch_and_sparsekern_serve_every_dtype() -> None:
    assert {"torch", *DENSE_RIVALS_CONV2D, *CSR_RIVALS_CONV2D, *NEEDS, "sparsekern"} == set(RIVALS_CONV2D)
    for dtype in DTYPES:
        one = case(dtype=dtype)
        for rival in ("torch", "sparsekern"):
            assert callable(one.prepare(rival, one.tensors()))


@pytest.mark.parametrize("over_rows", [False, True])
def test_sparseprop_is_given_what_it_takes(over_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Layer(nn.Module):
        def __init__(self, conv: nn.Conv2d, vectorizing_over_on: bool) -> None:
            super().__init__()
            self.over, self.conv = vectorizing_over_on, conv

        @classmethod
        def from_dense(cls, conv: nn.Conv2d, vectorizing_over_on: bool = False) -> Layer:
            return cls(conv, vectorizing_over_on)

        def forward(self, x: Tensor) -> Tensor:
            assert x.is_contiguous()
            y = self.conv(x)
            return y if self.over is over_rows else y.exp().log().exp().log() * 0 + y

    modules = ModuleType("sparseprop.modules")
    modules.SparseConv2d = Layer  # type: ignore[attr-defined]
    for name, module in (("sparseprop", ModuleType("sparseprop")), ("sparseprop.modules", modules)):
        monkeypatch.setitem(sys.modules, name, module)
    one = case(memory_format="channels_last")
    tensors = one.tensors()
    with torch.inference_mode():
        call = one.prepare("sparseprop", tensors)
        assert not isinstance(call, str) and call.compute.over is over_rows  # type: ignore[attr-defined]
        one.truth(tensors).check(call(tensors[2]), torch.float32)
        half, far = case(dtype="float16"), case(stride=3)
        assert half.prepare("sparseprop", half.tensors()) == "takes float32, not torch.float16"
        assert str(far.prepare("sparseprop", far.tensors())).startswith("takes stride 1 or 2")
    conv = nn.Conv2d(6, 10, (3, 1))
    refusal = rivals_conv._sparseprop(conv, tensors[2], (1, 1))
    assert isinstance(refusal, str) and refusal.startswith("takes square geometries, not kernel (3, 1)")


# ---- the command


def test_a_run_prints_a_table_and_writes_a_line_for_each_rival(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.jsonl"
    arguments = ["--sparsity", "0.5", "0.9", "--batch", "1", "3", "--json", str(path)]
    assert main([*TINY, *arguments]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert said.err == "" and re.match(r".+, \w+, 1 thread\(s\), FMA peak \d+ GFLOP/s$", lines[0])
    table = [[cell.strip() for cell in text.strip("|").split("|")] for text in lines if text[:1] == "|"]
    head, rows = table[0], table[2:]
    assert head[0] == "x, kernel to outputs" and head[-2:] == ["of the limit", "kernel"]
    assert [cells[:3] for cells in rows] == [
        [f"{batch} x 8 x 7 x 7, 3x3 to 16", share, "1x1"] for batch in (1, 3) for share in ("50 %", "90 %")
    ]
    assert all(re.match(r"\d+\.\d\dx \(\d+\.\d\d to ", cells[-3]) for cells in rows)
    points = [text for text in lines if text.startswith("- 8 to 16, 3x3, map 7, 1x1, batch ")]
    assert len(points) == 2
    records = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    assert {record["provider"] for record in records} == {
        name.removesuffix(" us") for name in head if name.endswith(" us")
    }
    ours = next(record for record in records if record["provider"] == "sparsekern")
    sizes = {"batch": 1, "channels": [8, 16], "kernel": 3, "map": 7, "stride": 1, "padding": 1, "dilation": 1}
    assert ours["problem"] == {
        "op": "conv2d",
        "threads": 1,
        **sizes,
        "sparsity": 0.5,
        "block": [1, 1],
        "dtype": "float32",
        "memory_format": "contiguous",
    }
    assert ours["flops"] == 2 * 576 * 49 and ours["bytes"] == 4 * (576 + 49 * 24) + 2 * 576
    assert ours["median_us"] > 0 and ours["kernel"] and 0 < ours["error"] < 1e-4


def test_a_wrong_sparsekern_ends_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plant(conv: nn.Conv2d, x: Tensor, block: tuple[int, int]) -> rivals_conv.Call:
        return lambda x: conv(x) + 1e-2

    monkeypatch.setitem(rivals_conv.RIVALS_CONV2D, "sparsekern", plant)
    assert main([*TINY, "--sparsity", "0.9"]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.startswith(
        "sparsekern: sparsekern on n1-8to16-3x3-map7-90%-1x1-float32-contiguous: wrong by "
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--channels", "256"], "expected channels such as 128x256 (in x out), got '256'"),
        (["--padding", "-1"], "--padding"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["--memory-format", "nhwc"], "invalid choice: 'nhwc'"),
        (["--block", "1024x1"], "block 1024x1 does not fit into a weight of 256x2304"),
        (["--kernel", "9", "--map", "3", "--padding", "2"], "a kernel of 9 with dilation 1 does not fit"),
        (["--preset", "dlmc", "--kernel", "3"], "--kernel: not expected, as --preset dlmc takes its sizes"),
        (["--limit", "3"], "--limit: not expected, as --preset quick reads no files"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["bench", "conv2d", *arguments])
    except SystemExit as stop:  # argparse's own way out
        code = stop.code
    said = capsys.readouterr()
    assert code == 2 and said.out == "" and said.err.count("\n") == 1 and words in said.err


def test_a_row_says_what_is_not_usual() -> None:
    odd = case(kernel=2, padding=0, stride=2, dilation=3, memory_format="channels_last", dtype="bfloat16")
    text = row(result(odd, onednn=8.0, sparsekern=4.0), ["torch", "onednn"], "conv1")
    sizes = "2 x 6 x 9 x 9, 2x2 stride 2 padding 0 dilation 3 to 10, channels_last bfloat16"
    assert text.startswith(f"| conv1 {sizes} | 60 % | 1x1 | refuses | 8.0 | n/a | 2.00x (2.00 to ")
    curve = ((0.5, 9.0), (0.9, 1.0))
    found = [result(case(sparsity=share), torch=8.0, sparsekern=ours) for share, ours in curve]
    assert list(break_evens(found)) == ["6 to 10, 3x3, map 9, 1x1, batch 2, float32, contiguous: 50.6 %"]
