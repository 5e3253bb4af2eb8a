"""`sparsekern doctor`: what this machine has, and which kernels can run on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from sparsekern.bench import machine
from sparsekern.bench.record import strict_json
from sparsekern.cli.progress import say
from sparsekern.kernels import KERNELS, Kernel, Problem
from sparsekern.kernels.triton import cache

BLOCKS, GPU_BLOCKS = ((1, 1), (16, 1)), ((16, 16), (64, 64))


def doctor(options: argparse.Namespace) -> int:
    """Print what `examine` finds, as text or with `--json` as JSON."""
    found = examine()
    say(strict_json(found, indent=2) if options.json else "\n".join(_lines(found)), sys.stdout)
    return 0


def examine() -> dict[str, Any]:
    """ISA, threads, versions, Triton, GPU, tuned launches, kernels, data sets: what is here, and why the rest
    is not."""
    from sparsekern.kernels import cpu

    return {
        "machine": machine.describe(cpu.isa()),
        "isas": list(cpu.isas()),
        "versions": machine.versions(),
        "triton": _yes_or_why(_no_triton()),
        "gpu": _yes_or_why(_no_gpu()),
        "tuned": _tuned(),
        "kernels": [
            {"kernel": kernel.name, "block": list(block), **_yes_or_why(_refusal(kernel, block, cpu.isa()))}
            for kernel in KERNELS
            for block in (GPU_BLOCKS if _is_for_gpus(kernel) else BLOCKS)
        ],
        "data": {name: _yes_or_why(why) for name, why in _data_sets()},
    }


def _no_triton() -> str | None:
    if find_spec("triton") is not None:
        return None
    return f"not installed; CUDA builds of torch for Linux bring it, this is {torch.__version__}"


def _no_gpu() -> str | None:
    if torch.cuda.is_available():
        return None
    return "torch sees no CUDA device" if torch.version.cuda else "this torch was built without CUDA"


def _tuned() -> dict[str, object]:
    """How many launches are kept for this machine's GPU, and how many come with the package for its kind."""
    if why := _no_gpu():
        return {**_yes_or_why(why), "folder": str(cache.folder()), "version": cache.VERSION}
    name, arch = torch.cuda.get_device_name(), _gpu_arch()
    kept, shipped = cache.path_of(name), cache.SHIPPED / f"{arch}.json"
    return {
        **_yes_or_why(None),
        "path": str(kept),
        "version": cache.VERSION,
        "entries": len(cache.read(kept)),
        "shipped": len(cache.read(shipped)),
    }


def _gpu_arch() -> str:
    return "sm_{}{}".format(*torch.cuda.get_device_capability())


def _is_for_gpus(kernel: Kernel) -> bool:
    return kernel.name.startswith("triton")


def _refusal(kernel: Kernel, block: tuple[int, int], isa: str) -> str | None:
    """Why the kernel does not run here on a float32 layer of 1024 x 1024 with this block; None if it does."""
    problem = Problem(kernel.op, "cpu", isa, "float32", block, m=256, n=1024, k=1024, density=0.1)
    if _is_for_gpus(kernel):
        if why := _no_gpu():
            return why
        problem = replace(problem, device="cuda", arch=_gpu_arch(), features=("triton",))
    try:
        kernel.backend()
    except ImportError as error:
        return f"its backend is not installed: {error}"
    return kernel.refuse(problem)


def _data_sets() -> Iterator[tuple[str, str | None]]:
    """Every data set of the zoo with the reason why it is not on this machine; nothing is downloaded."""
    from sparsekern.zoo import DATASETS, places

    for name in DATASETS:
        if name not in places.PUBLISHED:  # it comes with the package
            yield name, None
            continue
        try:
            folder = places.locate(name)
        except ValueError as error:
            yield name, str(error)
        else:
            yield name, None if folder else "not on this machine: --data-dir, SPARSEKERN_DATA, or a download"


def _yes_or_why(reason: str | None) -> dict[str, object]:
    return {"available": True} if reason is None else {"available": False, "reason": reason}


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    here, versions = found["machine"], found["versions"]
    yield f"cpu      {here['cpu']}, {here['cpus_usable']} usable, {here['architecture']}, {here['os']}"
    yield f"isa      {here['isa']} in use; this machine can run {', '.join(found['isas'])}"
    yield f"threads  {here['threads']} (torch.get_num_threads)"
    yield f"versions {', '.join(f'{name} {version}' for name, version in versions.items())}"
    for name in ("triton", "gpu"):
        yield f"{name:8} {_answer(found[name])}"
    yield f"{'tuned':8} {_tuned_line(found['tuned'])}"
    yield "kernels, best first, on a float32 layer:"
    for entry in found["kernels"]:
        yield f"  {entry['kernel']:26} block {tuple(entry['block'])!s:8} {_answer(entry)}"
    yield "data sets:"
    for name, entry in found["data"].items():
        yield f"  {name:26} {_answer(entry)}"


def _tuned_line(tuned: Mapping[str, Any]) -> str:
    if not tuned["available"]:
        return f"{_answer(tuned)}; launches would be kept in {tuned['folder']}"
    kept = f"{tuned['entries']} launches in {tuned['path']}"
    return f"{kept}, {tuned['shipped']} come with the package (version {tuned['version']})"


def _answer(entry: Mapping[str, Any]) -> str:
    return "yes" if entry["available"] else f"no: {entry['reason']}"
