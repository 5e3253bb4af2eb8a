"""When a sparse kernel replaces a dense one: the rule, and its answer in words."""

from __future__ import annotations

from sparsekern.bench.timing import Ratio


def keep_sparse(ratio: Ratio, margin: float = 0.05) -> tuple[bool, str]:
    """Whether sparse wins: at least `margin` faster than dense, with the whole interval above 1.

    `ratio` is the speed-up of sparse over dense. Returns the decision and its reason with the figures, such
    as "1.02x (0.98 to 1.06): not 5 % faster".
    """
    if ratio.value < 1:
        return False, f"{ratio}: slower"
    if ratio.value < 1 + margin:
        return False, f"{ratio}: not {100 * margin:g} % faster"
    if ratio.low <= 1:
        return False, f"{ratio}: faster, but the interval reaches 1"
    return True, f"{ratio}: faster"
