"""Dense rivals of a linear layer: right answers, refusals in words."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekern.bench import DENSE, Timing, best_dense, dense


def problem(
    dtype: torch.dtype = torch.float32, rows: tuple[int, ...] = (17,)
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(33, 50).to(dtype), torch.randn(33).to(dtype), torch.randn(*rows, 50).to(dtype)


needs_onednn = pytest.mark.skipif(
    isinstance(DENSE["onednn"](*problem()), str), reason=f"{DENSE['onednn'](*problem())}"
)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
@pytest.mark.parametrize("rows", [(1,), (17,), (2, 5)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_rivals_compute_a_linear_layer(
    name: str, dtype: torch.dtype, tolerance: float, rows: tuple[int, ...], with_bias: bool
) -> None:
    weight, bias, x = problem(dtype, rows)
    call = DENSE[name](weight, bias if with_bias else None, x)
    if isinstance(call, str):
        pytest.skip(call)
    want = F.linear(x.double(), weight.double(), bias.double() if with_bias else None)
    assert call(x).shape == (*rows, 33)
    torch.testing.assert_close(call(x).double(), want, rtol=tolerance, atol=10 * tolerance)


@needs_onednn
def test_a_packed_weight_serves_other_batches() -> None:
    weight, bias, x = problem()
    call = DENSE["onednn"](weight, bias, x)
    assert not isinstance(call, str)
    torch.testing.assert_close(call(x[:3]), F.linear(x[:3], weight, bias))


@needs_onednn
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weight, x: (weight.double(), x.double()), "bfloat16 or float16, not x torch.float64"),
        (lambda weight, x: (weight, x.bfloat16()), "not x torch.bfloat16 with weight torch.float32"),
        (lambda weight, x: (weight, x[:0]), r"nothing to compute for x \(0, 50\)"),
        (lambda weight, x: (weight, x[:, :49]), "oneDNN failed: "),
        (lambda weight, x: (weight.to("meta"), x), "runs on the cpu, not on meta"),
    ],
)
def test_onednn_refuses_in_words(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    weight, _, x = problem()
    weight, x = change(weight, x)
    refusal = DENSE["onednn"](weight, None, x)
    assert isinstance(refusal, str)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(refusal)


@needs_onednn
def test_a_wrong_rival_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def drops_an_input(packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        x = x.clone()
        x[..., 7] = 0
        return F.linear(x, weight, bias)

    weight, bias, x = problem()
    monkeypatch.setattr(dense, "_onednn_linear", drops_an_input)
    assert DENSE["onednn"](weight, bias, x) == "oneDNN disagrees with torch.nn.functional.linear"


def test_best_dense_is_the_smallest_median() -> None:
    times = {"torch": Timing("torch", (9.0, 9.0, 1.0)), "onednn": Timing("onednn", (8.0, 8.0, 90.0))}
    assert best_dense(times) == "onednn"
    with pytest.raises(ValueError, match="no dense timing"):
        best_dense({})
