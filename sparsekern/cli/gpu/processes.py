"""Commands in processes of their own, ended with all that they started when their time is up."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Any


def run_limited(
    command: Sequence[str],
    seconds: float,
    *,
    stdout: int | IO[Any] | None = None,
    env: Mapping[str, str] | None = None,
) -> int | None:
    """The exit code of a command, or None if it did not end within so many seconds and was killed.

    stdout: where its output goes, as `subprocess.Popen` has it. env: what its environment has besides ours.
    """
    process = subprocess.Popen(
        command, stdout=stdout, env={**os.environ, **(env or {})}, start_new_session=True
    )
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also when we are stopped ourselves
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
