"""A run in progress as a file: what a killed search goes on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sparsekern._version import __version__
from sparsekern.tickets import files

Point = tuple[int, float, float]


@dataclass(frozen=True)
class Progressed:
    """How far a run was: `tensors` are those of `Training.tensors`, `best` the state at the lowest validation
    loss so far, `curve` has points (step, validation loss, validation accuracy)."""

    done: int
    tensors: dict[str, Tensor]
    best: dict[str, Tensor]
    curve: list[Point]
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """The file at `path`, of the one run that `run` describes; a checkpoint of any other is refused. Who
    trains writes it every `every_s` seconds."""

    path: Path
    run: Mapping[str, object]
    every_s: float = 60.0

    def save(self, progressed: Progressed) -> None:
        """Write it atomically: at any moment the file is the last checkpoint or this one."""
        tensors = {
            **files.ungroup("training", progressed.tensors),
            **files.ungroup("best", progressed.best),
        }
        header = {
            "run": dict(self.run),
            "done": progressed.done,
            "curve": [list(point) for point in progressed.curve],
            "seconds": progressed.seconds,
        }
        files.write(self.path, "progress", tensors, header)

    def load(self) -> Progressed | None:
        """The checkpoint, or None if there is none; ValueError for one that is damaged or of another run."""
        if not self.path.exists():
            return None
        tensors, header = files.read(self.path, "progress")
        found = files.field(header, "run", dict, self.path), header["code_version"]
        if found != (self.run, __version__):
            raise ValueError(f"{self.path}: a checkpoint of {dict(self.run)} expected, got one of {found[0]}")
        return Progressed(
            done=files.field(header, "done", int, self.path),
            tensors=files.group(tensors, "training"),
            best=files.group(tensors, "best"),
            curve=points(files.field(header, "curve", list, self.path), self.path),
            seconds=files.field(header, "seconds", float, self.path),
        )

    def remove(self) -> None:
        """The run is finished."""
        self.path.unlink(missing_ok=True)


def points(found: Sequence[object], path: Path) -> list[Point]:
    """The points of a curve out of lists [step, loss, accuracy]; ValueError for anything else."""
    for point in found:
        if not isinstance(point, list) or [type(value) for value in point] != [int, float, float]:
            raise ValueError(f"{path}: curve points [step, loss, accuracy] expected, got {point!r}")
    return [(point[0], point[1], point[2]) for point in found if isinstance(point, list)]
