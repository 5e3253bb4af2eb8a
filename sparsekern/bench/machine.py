"""The machine a number was measured on: what it is, and how fast at what bounds a kernel."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from time import perf_counter

import torch

_MIB = 1 << 20
_PACKAGE = Path(__file__).parent
_CPU0 = Path("/sys/devices/system/cpu/cpu0")


def describe(isa: str | None = None) -> dict[str, object]:
    """CPU model, usable CPUs, caches (KiB), governor, operating system, torch's threads, `isa` if given.

    What cannot be read on this machine is a missing key.
    """
    found: dict[str, object] = {
        "cpu": _cpu_model(),
        "cpus_usable": usable_cpus(),
        "architecture": platform.machine(),
        "os": f"{platform.system()} {platform.release()}",
        "threads": torch.get_num_threads(),
    }
    if isa is not None:
        found["isa"] = isa
    if caches := caches_kib():
        found["caches_kib"] = caches
    if governor := _read(_CPU0 / "cpufreq" / "scaling_governor"):
        found["governor"] = governor
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the numbers, of those installed."""
    found = {"python": platform.python_version()}
    for name in ("sparsekern", "torch", "numpy", "triton", "onnxruntime", "sparseprop"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(folder: Path = _PACKAGE) -> dict[str, object]:
    """`commit` (hash) and `dirty` (uncommitted changes) of the git checkout that tracks `folder`.

    Empty without git, outside a checkout, and where git does not track `folder`: a copy installed inside
    somebody else's checkout must not borrow its hash.
    """
    tracked = _run("git", "-C", str(folder), "ls-files", "--error-unmatch", ".")
    head = _run("git", "-C", str(folder), "rev-parse", "HEAD")
    if not tracked or not head:
        return {}
    return {"commit": head, "dirty": bool(_run("git", "-C", str(folder), "status", "--porcelain"))}


def caches_kib() -> dict[str, int]:
    """Sizes of the first CPU's caches in KiB, such as {"L1d": 48, "L2": 2048}; empty where unreadable."""
    found = {}
    for index in sorted((_CPU0 / "cache").glob("index*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        if level and kind and size and size.endswith("K"):
            suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
            found[f"L{level}{suffix}"] = int(size[:-1])
    return found


def speeds(fma_peak: Callable[[], float] | None = None, *, seconds: float = 0.2) -> dict[str, float]:
    """Measured on the spot with torch's present number of threads, about `seconds` for each figure.

    - `dense_gemm_gflops`: the best torch.mm of 1024 x 1024 float32 matrices, a floor under the FMA peak;
    - `fma_peak_gflops`: the peak itself, when the caller has a probe for it (GFLOP/s);
    - `copy_memory_gbps`: reading and writing a buffer several times the largest cache (GB/s, both counted);
    - `copy_256kib_gbps`: the same for 256 KiB, which stays in a core's own caches.
    """
    left, right = torch.rand(1024, 1024), torch.rand(1024, 1024)
    found = {
        "dense_gemm_gflops": 2 * 1024**3 / _best_s(lambda: torch.mm(left, right), seconds) / 1e9,
        "copy_memory_gbps": _copy_gbps(_memory_buffer_bytes(), seconds),
        "copy_256kib_gbps": _copy_gbps(256 << 10, seconds),
    }
    if fma_peak is not None:
        found["fma_peak_gflops"] = fma_peak()
    return found


def _memory_buffer_bytes() -> int:
    """Four times the largest cache for source and target together, between 64 and 512 MiB."""
    last_level = max(caches_kib().values(), default=0) << 10
    return min(max(4 * last_level, 64 * _MIB), 512 * _MIB)


def _copy_gbps(total_bytes: int, seconds: float) -> float:
    source = torch.rand(total_bytes // 8)  # half of the bytes, four each
    target = torch.empty_like(source)
    return total_bytes / _best_s(lambda: target.copy_(source), seconds) / 1e9


def _best_s(call: Callable[[], object], seconds: float) -> float:
    """Shortest of the calls that fit into `seconds` (at least three, after one to warm up), in s."""
    call()
    best, done, end = float("inf"), 0, perf_counter() + seconds
    while done < 3 or perf_counter() < end:
        start = perf_counter()
        call()
        best = min(best, perf_counter() - start)
        done += 1
    return best


def _cpu_model() -> str:
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return _run("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def usable_cpus() -> int:
    """CPUs this process may run on; all of them where the system has no affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _run(*command: str) -> str:
    """Output of a command; empty when it is missing, fails, or takes ten seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
