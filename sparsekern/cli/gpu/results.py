"""The JSON file of a device: what each part found on it, and with what."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from sparsekern.bench import machine
from sparsekern.bench.atomic import write_atomically
from sparsekern.bench.record import strict_json
from sparsekern.cli.gpu.roofline import peak_of
from sparsekern.cli.gpu.setting import Entry

NO_GPU = "interpreter"
_SMI = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"


def device_name() -> str:
    """Of the current CUDA device; where there is none, of what stands in for it: as launches know it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else NO_GPU


def path_in(folder: Path) -> Path:
    """The device's file, such as nvidia-h100-80gb-hbm3.json."""
    return folder / f"{re.sub(r'[^a-z0-9]+', '-', device_name().lower()).strip('-')}.json"


def write(folder: Path, part: str, entries: Sequence[Entry], **about: object) -> None:
    """Puts what a part found into the device's file, in place of what the same part found before."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    content = read(folder)
    content["device"] = describe()
    content.setdefault("parts", {})[part] = {"at": now, **about, "entries": list(entries)}
    write_atomically(path_in(folder), (strict_json(content, indent=1) + "\n").encode())


def read(folder: Path) -> dict[str, Any]:
    """The device's file; empty where there is none. ValueError for one that holds no JSON object."""
    path = path_in(folder)
    if not path.exists():
        return {}
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def describe() -> dict[str, object]:
    """What the device is; what cannot be read is a missing key."""
    found: dict[str, object] = {"name": device_name()}
    if torch.cuda.is_available():
        of = torch.cuda.get_device_properties(torch.cuda.current_device())
        found |= {
            "arch": f"sm_{of.major}{of.minor}",
            "multiprocessors": of.multi_processor_count,
            "memory_mib": of.total_memory >> 20,
            "l2_mib": of.L2_cache_size >> 20,
        }
    peak = peak_of(device_name())
    if peak is not None:
        found |= {"published_tflops": peak.tflops, "published_gbps": peak.gbps}
    return found


def describe_run() -> dict[str, object]:
    """What a part runs with: versions, commit, and how the device is before it."""
    found: dict[str, object] = {"versions": machine.versions(), **machine.commit()}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found | {"before": read_smi()}


def read_smi() -> dict[str, str]:
    """Driver, clocks, power limit and temperature, as nvidia-smi says them; empty where it does not."""
    index = torch.cuda.current_device() if torch.cuda.is_available() else 0
    command = ["nvidia-smi", f"--query-gpu={_SMI}", "--format=csv,noheader", f"--id={index}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in done.stdout.split(",")]
    names = _SMI.replace(".", "_").split(",")
    return dict(zip(names, values, strict=True)) if done.returncode == 0 and len(values) == len(names) else {}
