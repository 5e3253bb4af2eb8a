"""Dispatch: a list, best first; a forced ISA is obeyed or refused loudly. Threads change nothing but time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from kernel_checks import kernels_for, run

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


@pytest.mark.parametrize("block", [(1, 1), (16, 1), (5, 1)])
def test_threads_and_repeats_give_the_same_bits(block: tuple[int, int], isa: str) -> None:
    dense = torch.randn(203, 300) * (torch.rand(203, 300) < 0.2)
    weight = BlockSparse.from_dense(dense, block)
    for batch in (1, 7, 100, 260):
        x = torch.randn(batch, 300)
        for kernel in kernels_for(weight)[:-1]:  # all but the reference
            torch.set_num_threads(1)
            want = run(kernel.backend(), weight, x, None)
            for threads in (1, 2, 3, 4, 8):
                torch.set_num_threads(threads)
                for _ in range(3):
                    assert torch.equal(run(kernel.backend(), weight, x, None), want)


@pytest.mark.parametrize("block", [(1, 1), (3, 1), (16, 1), (5, 1)])
def test_threads_and_repeats_give_the_same_bits_of_gradients(block: tuple[int, int], isa: str) -> None:
    dense = torch.randn(203, 300) * (torch.rand(203, 300) < 0.2)
    weight = BlockSparse.from_dense(dense, block)
    packed = PackedWeight(weight.values, None, weight.crow, weight.col, cpu.linear.pack(weight), 203, 300)
    for batch in (1, 100, 260):
        x, grad = torch.randn(batch, 300), torch.randn(batch, 203)
        torch.set_num_threads(1)
        to_x, to_values = cpu.linear.grad_input(grad, packed), cpu.linear.grad_values(grad, x, packed)
        for threads in (2, 4, 8):
            torch.set_num_threads(threads)
            for _ in range(3):
                assert torch.equal(cpu.linear.grad_input(grad, packed), to_x)
                assert torch.equal(cpu.linear.grad_values(grad, x, packed), to_values)


def test_the_measured_peak_orders_the_isas() -> None:
    peaks = [cpu.fma_peak_gflops(name) for name in cpu.isas()]
    assert all(peak > 0.1 for peak in peaks)
    assert peaks[0] > 1.5 * peaks[-1] or len(peaks) == 1
