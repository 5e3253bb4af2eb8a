"""The C++ half on its own: natively under AddressSanitizer and UBSan, and for aarch64 under an emulator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sparsekern.kernels import cpu

CASES_OF_ONE_ISA = 9 * 7 * 3 * 2 * 4
ROOT = Path(__file__).parent.parent
SOURCES = [str(ROOT / "tests/cpp/kernels_selftest.cpp"), *sorted(map(str, (ROOT / "csrc/cpu").glob("*.cpp")))]


def build_and_run(compiler: str, flags: list[str], runner: list[str], folder: Path) -> str:
    program = folder / "selftest"
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", f"-I{ROOT / 'csrc'}", *flags, *SOURCES]
    subprocess.run([*command, "-o", str(program)], check=True, capture_output=True, text=True)
    done = subprocess.run([*runner, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_no_byte_beyond_a_buffer_and_no_undefined_behaviour(tmp_path: Path) -> None:
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    output = build_and_run("g++", flags, [], tmp_path)
    assert f"{CASES_OF_ONE_ISA * len(cpu.isas())} passed, 0 failed" in output


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="needs Debian's g++-aarch64-linux-gnu and qemu-user",
)
def test_neon_under_an_emulator(tmp_path: Path) -> None:
    output = build_and_run("aarch64-linux-gnu-g++", ["-O2", "-static"], ["qemu-aarch64"], tmp_path)
    assert f"best neon: {CASES_OF_ONE_ISA * 2} passed, 0 failed" in output  # neon and scalar
