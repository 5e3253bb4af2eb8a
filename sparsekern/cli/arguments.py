"""The kinds of values that options take; each complains in words of its own."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, replace
from typing import NoReturn

MOST_SEEDS = 1000


class Parser(argparse.ArgumentParser):
    """argparse that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if (value := natural(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def seeds(text: str) -> int:
    """How many seeds."""
    if (value := positive(text)) > MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_SEEDS} seeds, got {text!r}")
    return value


def natural(text: str) -> int:
    """A whole number of at least 0."""
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def block(text: str) -> tuple[int, int]:
    """Outputs x inputs of a block."""
    return _two(text, "a block such as 16x1 (outputs x inputs)")


def shape(text: str) -> tuple[int, int]:
    """Outputs x inputs of a weight."""
    return _two(text, "a shape such as 3072x768 (outputs x inputs)")


def channels(text: str) -> tuple[int, int]:
    """Inputs x outputs of a convolution."""
    return _two(text, "channels such as 128x256 (in x out)")


@dataclass(frozen=True)
class TensorShape:
    """Of an input, the batch first; `whole` if it is of whole numbers (int64)."""

    sizes: tuple[int, ...]
    whole: bool = False

    def __str__(self) -> str:
        return "x".join(map(str, self.sizes)) + (":int64" if self.whole else "")

    def with_rows(self, rows: int | None) -> TensorShape:
        """The same with so many rows; None leaves it as it is."""
        return self if rows is None else replace(self, sizes=(rows, *self.sizes[1:]))


def tensor_shape(text: str) -> TensorShape:
    """Of an input of a network."""
    match = re.fullmatch(r"([1-9]\d{0,6}(?:x[1-9]\d{0,6})*)(:int64)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a shape such as 1x3x224x224 or 8x128:int64, got {text!r}")
    return TensorShape(tuple(map(int, match[1].split("x"))), match[2] is not None)


def share(text: str) -> float:
    """Of zeros."""
    if not 0 <= (value := _number(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a share of zeros from 0 to below 1, got {text!r}")
    return value


def seconds(text: str) -> float:
    """More than none."""
    if not 0 < (value := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text!r}")
    return value


def minutes(text: str) -> float:
    """More than none."""
    if not 0 < (value := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of minutes above 0, got {text!r}")
    return value


def _two(text: str, what: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
    return int(match[1]), int(match[2])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # which lies in no range
