"""Dispatch: a list, best first; a forced ISA is obeyed or refused loudly. Threads change nothing but time."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from kernel_checks import check_bits, kernels_for

from sparsekern.formats import BlockSparse
from sparsekern.kernels import cpu
from sparsekern.kernels.select import PackedWeight


def in_a_fresh_process(isa: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from sparsekern.kernels import cpu; print(cpu.isa())"],
        env={**os.environ, "SPARSEKERN_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", cpu.isas())
def test_the_environment_forces_an_isa(name: str) -> None:
    assert in_a_fresh_process(name).stdout.strip() == name


@pytest.mark.parametrize("name", ["sse9", *(set(cpu.isas(supported_only=False)) - set(cpu.isas()))])
def test_an_isa_that_cannot_run_is_refused_with_what_can(name: str) -> None:
    result = in_a_fresh_process(name)
    assert result.returncode != 0
    assert f"ISA '{name}'" in result.stderr and "scalar" in result.stderr
    with pytest.raises(ValueError, match=f"ISA '{name}'"), cpu.using_isa(name):
        pass


def test_scalar_is_last_and_the_best_is_the_default() -> None:
    assert cpu.isas()[-1] == "scalar"
    if "SPARSEKERN_ISA" not in os.environ:
        assert cpu.isa() == cpu.isas()[0]


def test_using_isa_comes_back() -> None:
    before = cpu.isa()
    with pytest.raises(ZeroDivisionError), cpu.using_isa("scalar"):
        assert cpu.isa() == "scalar"
        raise ZeroDivisionError
    assert cpu.isa() == before


SIXTEEN_BITS = (torch.bfloat16, torch.float16)
BITS = [
    *((block, torch.float32) for block in ((1, 1), (3, 1), (5, 1), (16, 1))),
    *((block, dtype) for block in ((1, 1), (16, 1)) for dtype in SIXTEEN_BITS),
    ((16, 2), torch.bfloat16),
]
"""Blocks and dtypes whose bits are compared; int8 is in tests/nn/test_quantized.py."""


def sparse(block: tuple[int, int], dtype: torch.dtype) -> BlockSparse:
    dense = torch.randn(203, 150) * (torch.rand(203, 150) < 0.2)
    return BlockSparse.from_dense(dense.to(dtype), block)


@pytest.mark.parametrize(("block", "dtype"), BITS, ids=str)
def test_threads_and_repeats_give_the_same_bits(block: tuple[int, int], dtype: torch.dtype, isa: str) -> None:
    weight = sparse(block, dtype)
    kernels = kernels_for(weight)[:-1]  # all but the reference
    for kernel in kernels if dtype is torch.float32 or block[1] == 2 else kernels[-1:]:
        backend = kernel.backend()
        packed = PackedWeight(weight.values, None, weight.crow, weight.col, backend.pack(weight), 203, 150)
        for batch in (1, 7, 260):
            check_bits(partial(backend.run, torch.randn(batch, 150).to(dtype), packed))


@pytest.mark.parametrize("block", [(1, 1), (16, 1)])
@pytest.mark.parametrize(("batch", "n", "k"), [(1, 2101, 1000), (7, 603, 500)])
def test_few_rows_of_enough_work_for_8_threads_too(
    batch: int, n: int, k: int, block: tuple[int, int], isa: str
) -> None:
    weight = BlockSparse.from_dense(torch.randn(n, k), block)
    assert batch * weight.values.numel() > 8 * 2**18  # csrc/parallel.h
    packed = PackedWeight(weight.values, None, weight.crow, weight.col, cpu.linear.pack(weight), n, k)
    check_bits(partial(cpu.linear.run, torch.randn(batch, k), packed))


@pytest.mark.parametrize(("block", "dtype"), BITS[:-1], ids=str)
def test_threads_and_repeats_give_the_same_bits_of_gradients(
    block: tuple[int, int], dtype: torch.dtype, isa: str
) -> None:
    weight = sparse(block, dtype)
    packed = PackedWeight(weight.values, None, weight.crow, weight.col, cpu.linear.pack(weight), 203, 150)
    for batch in (1, 260):
        x, grad = torch.randn(batch, 150).to(dtype), torch.randn(batch, 203).to(dtype)
        check_bits(partial(cpu.linear.grad_input, grad, packed))
        check_bits(partial(cpu.linear.grad_values, grad, x, packed))


def test_the_measured_peak_orders_the_isas() -> None:
    peaks = [cpu.fma_peak_gflops(name) for name in cpu.isas()]
    assert all(peak > 0.1 for peak in peaks)
    assert peaks[0] > 1.5 * peaks[-1] or len(peaks) == 1
