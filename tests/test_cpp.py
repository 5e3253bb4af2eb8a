"""The C++ half on its own: natively under AddressSanitizer and UBSan, and for aarch64 under an emulator."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from sparsekern.kernels import cpu, cpu_int8

CASES_OF_ONE_ISA = 9 * 7 * 3 * 2 * 4
CASES_OF_CONV_OF_ONE_ISA = 10 * (3 * 2 + 2) * 2 * 2 * 2 + 3
CASES_OF_WORDS = 3 * 3 * 8 * 3 * 2
ROOT = Path(__file__).parent.parent
SOURCES = sorted(map(str, (ROOT / "csrc/cpu").glob("*.cpp")))
PROGRAMS = ("kernels", "words", "conv")


def build_and_run(compiler: str, flags: list[str], runner: list[str], folder: Path) -> list[str]:
    """What each of PROGRAMS prints."""
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", f"-I{ROOT / 'csrc'}", *flags]
    run = partial(subprocess.run, capture_output=True, text=True, cwd=folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda source: run([*command, "-c", source], check=True), SOURCES))
    outputs = []
    for program in PROGRAMS:
        source, objects = ROOT / f"tests/cpp/{program}_selftest.cpp", sorted(map(str, folder.glob("*.o")))
        run([*command, str(source), *objects, "-o", program], check=True)
        done = run([*runner, str(folder / program)], check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout)
    return outputs


_ASKS_FOR_LINES = """
#include "cpu/unroll.h"
#define HELPER __attribute__((noinline)) static void
HELPER ask(const float* p, long n) { while (n--) prefetch_line(p + n * 16); }
HELPER ask_to_write(float* p, long n) { while (n--) prefetch_to_write(p + n * 16); }
void walk(float* p, long n) { for (long i = 0; i < n; ++i) ask(p + i * 99, n), ask_to_write(p, i); }
"""


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_no_prefetch_is_deleted(tmp_path: Path) -> None:
    """GCC 12 deletes calls of functions that do nothing but prefetch; nothing but the speed shows it."""
    (tmp_path / "walk.cpp").write_text(_ASKS_FOR_LINES)
    command = ["g++", "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", "-S", "-o", "-", "walk.cpp"]
    assembly = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert len([line for line in assembly.splitlines() if "\tpref" in line or "\tprfm" in line]) >= 2


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_no_byte_beyond_a_buffer_and_no_undefined_behaviour(tmp_path: Path) -> None:
    # -Og compiles the bodies of all ISAs in half the time of -O1
    flags = ["-Og", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    kernels, words, conv = build_and_run("g++", flags, [], tmp_path)
    assert f"{CASES_OF_CONV_OF_ONE_ISA * len(cpu.isas())} passed, 0 failed" in conv
    assert f"{CASES_OF_ONE_ISA * len(cpu.isas())} passed, 0 failed" in kernels
    assert f"{CASES_OF_WORDS * len((*cpu.features(), *cpu_int8.kernels()))} passed, 0 failed" in words


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="needs Debian's g++-aarch64-linux-gnu and qemu-user",
)
def test_neon_under_an_emulator(tmp_path: Path) -> None:
    programs = build_and_run("aarch64-linux-gnu-g++", ["-O1", "-static"], ["qemu-aarch64"], tmp_path)
    kernels, words, conv = programs
    assert f"{CASES_OF_CONV_OF_ONE_ISA * 2} passed, 0 failed" in conv
    assert f"best neon: {CASES_OF_ONE_ISA * 2} passed, 0 failed" in kernels  # neon and scalar
    assert f"{CASES_OF_WORDS} passed, 0 failed" in words  # scalar, on int8
