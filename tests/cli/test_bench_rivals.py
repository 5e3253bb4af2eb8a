"""The rivals of the linear kernels: right or refused in words; the truth that they are checked against."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import truth
from torch import Tensor, nn

from sparsekern.cli.bench.cases import Truth
from sparsekern.cli.bench.cases_linear import LinearCase
from sparsekern.cli.bench.presets import DTYPES, INT8
from sparsekern.cli.bench.rivals import CSR_RIVALS, DENSE_RIVALS, NEEDS, RIVALS, missing, prepare
from sparsekern.cli.bench.rivals_int8 import RIVALS_INT8


@pytest.mark.parametrize("block", [(1, 1), (8, 1), (16, 2)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rival", RIVALS)
def test_a_rival_is_right_or_refuses_in_words(rival: str, dtype: str, block: tuple[int, int]) -> None:
    weight, bias, x = LinearCase(7, 33, 20, 0.6, block, dtype).tensors()
    with torch.inference_mode():
        call = prepare(rival, block, weight, bias, x)
        if isinstance(call, str):
            assert len(call) > 10
        else:
            Truth.of(weight, bias, x).check(call(x), x.dtype)


@pytest.mark.parametrize("rival", RIVALS)
def test_an_int8_rival_is_near_or_refuses_in_words(rival: str) -> None:
    weight, bias, x = LinearCase(7, 33, 20, 0.6, (16, 4), INT8).tensors()
    want = Truth.of_int8(weight, bias, x)
    with torch.inference_mode():
        call = prepare(rival, (16, 4), weight, bias, x, RIVALS_INT8)
        if isinstance(call, str):
            assert len(call) > 10 and (rival not in RIVALS_INT8 or missing(rival))
            return
        want.check(call(x), torch.float32)
        with pytest.raises(ValueError, match="wrong by"):
            want.check(call(x) + 20 * want.limit.float(), torch.float32)
    assert set(RIVALS_INT8) <= set(RIVALS)


def test_torch_and_sparsekern_serve_every_dtype() -> None:
    assert {"torch", *DENSE_RIVALS, *CSR_RIVALS, *NEEDS} <= set(RIVALS)
    for dtype in DTYPES:
        weight, bias, x = LinearCase(7, 33, 20, 0.6, (1, 1), dtype).tensors()
        for rival in ("torch", "sparsekern"):
            assert callable(prepare(rival, (1, 1), weight, bias, x))


def test_a_case_has_exactly_its_share_of_zero_blocks() -> None:
    weight, bias, x = LinearCase(3, 40, 30, 0.85, (8, 1), "bfloat16").tensors()
    assert (weight.shape, bias.shape, x.shape) == ((40, 30), (40,), (3, 30)) and x.dtype is torch.bfloat16
    alive = (weight != 0).view(5, 8, 30).sum(1)  # of each block
    zeros = round(0.85 * 150)
    assert int((alive == 0).sum()) == zeros and int((alive == 8).sum()) == 150 - zeros
    mask = torch.eye(40, 30, dtype=torch.bool)
    assert torch.equal(LinearCase(3, 40, 30, 0.9, (1, 1)).tensors(mask)[0] != 0, mask)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_limit_is_that_of_all_tests(dtype: str) -> None:
    weight, bias, x = LinearCase(5, 12, 40, 0.5, (1, 1), dtype).tensors()
    want = Truth.of(weight, bias, x)
    torch.testing.assert_close(want.y, truth.linear(x, weight, bias))
    torch.testing.assert_close(want.limit, truth.bound(x, weight, bias, x.dtype))


def test_what_is_wrong_is_found() -> None:
    weight, bias, x = LinearCase(5, 12, 40, 0.5, (1, 1)).tensors()
    want = Truth.of(weight, bias, x)
    right = want.y.float()
    assert 0 < want.check(right, torch.float32) < 1e-5
    off = right.clone()
    off[3, 4] += 2 * float(want.limit[3, 4])
    with pytest.raises(ValueError, match=r"wrong by .*, expected at most"):
        want.check(off, torch.float32)
    off[3, 4] = torch.nan
    with pytest.raises(ValueError, match="wrong by nan"):
        want.check(off, torch.float32)
    with pytest.raises(ValueError, match=r"gave torch.float32 \(12, 5\), expected torch.float32 \(5, 12\)"):
        want.check(right.T, torch.float32)
    with pytest.raises(ValueError, match=r"gave torch\.float64"):
        want.check(want.y, torch.float32)


def test_what_a_rival_raises_is_its_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object) -> None:
        raise NotImplementedError("not for this dtype\nand more")

    weight, bias, x = LinearCase(5, 12, 40, 0.5, (1, 1)).tensors()
    monkeypatch.setitem(RIVALS, "torch", lambda *given: fails)
    monkeypatch.setitem(RIVALS, "onednn", fails)
    assert {prepare(who, (1, 1), weight, bias, x) for who in ("torch", "onednn")} == {"not for this dtype"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import not_there_either", "its not_there_either is not installed"),
        ("raise ImportError('no libgomp.so.1')", "odd_rival does not load: no libgomp.so.1"),
        ("", None),
    ],
)
def test_why_a_rival_is_missing(
    source: str, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_rival.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(NEEDS, "sparseprop", ("odd_rival",))
    assert missing("sparseprop") == words
    sys.modules.pop("odd_rival", None)
    monkeypatch.setitem(NEEDS, "sparseprop", ("odd_rival_2",))
    weight, bias, x = LinearCase(5, 12, 40, 0.5, (1, 1)).tensors()
    assert prepare("sparseprop", (1, 1), weight, bias, x) == "not installed"


def test_sparseprop_is_given_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def layer(weight: Tensor, bias: nn.Parameter) -> nn.Linear:
        assert isinstance(bias, nn.Parameter)
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight, linear.bias = nn.Parameter(weight), bias
        return linear

    modules = ModuleType("sparseprop.modules")
    modules.SparseLinear = layer  # type: ignore[attr-defined]
    for name, module in (("sparseprop", ModuleType("sparseprop")), ("sparseprop.modules", modules)):
        monkeypatch.setitem(sys.modules, name, module)
    weight, bias, x = LinearCase(5, 12, 40, 0.5, (1, 1)).tensors()
    with torch.inference_mode():
        call = prepare("sparseprop", (1, 1), weight, bias, x)
        assert not isinstance(call, str)
        Truth.of(weight, bias, x).check(call(x), x.dtype)
        half = prepare("sparseprop", (1, 1), weight.half(), bias.half(), x.half())
    assert half == "takes float32, not torch.float16"
