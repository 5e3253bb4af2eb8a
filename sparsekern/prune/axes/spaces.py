"""Spaces: sets of indices that may change places, and how the dimensions of tensors are made of them.

A dimension of a tensor is an axis: a product of spaces, outermost first. The 784 columns behind the
flattening of 16 channels of 7 x 7 are the axis (channels, rows, columns). A space that a reshape cuts
becomes a product itself, and dimensions that must agree index by index share a space: `tie` is union-find
with splitting. What a concatenation makes is a space with pieces. Every call costs O(factors of the axes).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

Axis = tuple["Space", ...]
"""A dimension as a product of spaces, outermost first; empty for a dimension of one index."""


class Space:
    """`size` indices. `fixed` says why they must keep their order and `sized` why none may be taken out;
    empty where nothing speaks against it."""

    def __init__(self, size: int, fixed: str = "", sized: str = "") -> None:
        self.size, self.fixed, self.sized = size, fixed, sized
        self.same: Space | None = None  # the space that this one was found to be the same as
        self.parts: Axis = ()  # the outer and the inner space of which it is the product, once it is split
        self.pieces: tuple[Axis, ...] = ()  # the axes that it strings together
        # the outer spaces for each of whose indices it might have an order of its own
        self.within: list[Space] = []
        self.whole: Space | None = None  # what it is the outer part of
        self.rest: Axis = ()  # the inner part of that
        self.alone = True  # so far it was only moved about
        self.choices: list[Axis] = []  # the spaces that its indices choose among, once one was picked
        self.copies: list[Axis] = []  # what stands for it where an index of an outer space was picked


def fresh(size: int, fixed: str = "") -> Axis:
    """An axis of one new space."""
    return (Space(size, fixed),) if size != 1 else ()


def strung(axes: Sequence[Axis]) -> Axis:
    """The axis of a concatenation."""
    if len(axes) == 1:
        return axes[0]
    space = Space(sum(size_of(axis) for axis in axes))
    space.pieces = tuple(axes)
    return (space,)


def size_of(axis: Axis) -> int:
    """How many indices an axis has."""
    return prod(space.size for space in axis)


def root(space: Space) -> Space:
    """The one space that stands for all that are the same."""
    while space.same is not None:
        space = space.same
    return space


def atoms(axis: Axis) -> list[Space]:
    """The roots of which the axis is the product, none of them split."""
    found: list[Space] = []
    for space in map(root, axis):
        found += atoms(space.parts) if space.parts else [space]
    return found


def fix(axis: Axis, why: str) -> None:
    """The indices must keep their order, and none may be taken out."""
    for space in atoms(axis):
        space.fixed = space.fixed or why
        for axis_ in (*space.pieces, *space.copies):
            fix(axis_, why)


def keep_size(axis: Axis, why: str) -> None:
    """No index may be taken out; another order does no harm."""
    for space in atoms(axis):
        space.sized = space.sized or why
        for axis_ in (*space.pieces, *space.copies):
            keep_size(axis_, why)


def meet(axis: Axis) -> None:
    """Something is computed along the axis: what holds for one of its copies holds for all."""
    for space in atoms(axis):
        copies, space.alone, space.copies = space.copies, False, []
        for copy in copies:
            tie((space,), copy)


def split(space: Space, outer: int, sized: str = "a reshape says its size") -> Axis:
    """Make an atom the product of `outer` indices and the rest; returns the two."""
    if space.pieces:
        fix((space,), "a reshape cuts what was concatenated")
    first = Space(outer, space.fixed, space.sized or sized)
    second = Space(space.size // outer, space.fixed, space.sized or sized)
    first.within = list(space.within)
    second.within = [*space.within, first]
    first.whole, first.rest = space, (second,)
    for copy in space.copies:
        outer_copy, inner_copy = refold([copy], (outer, second.size))
        first.copies.append(outer_copy)
        second.copies.append(inner_copy)
    space.parts = (first, second)
    return space.parts


def tie(one: Axis, other: Axis) -> None:
    """Two axes of the same size must agree index by index: from now on they share their spaces."""
    left, right = list(one), list(other)
    while left and right:
        a, b = _take(left), _take(right)
        if a is b:
            continue
        if a.size == b.size:
            _merge(a, b)
        elif a.size % b.size == 0:
            outer, inner = split(a, b.size, sized="")
            left.insert(0, inner)
            _merge(outer, b)
        elif b.size % a.size == 0:
            outer, inner = split(b, a.size, sized="")
            right.insert(0, inner)
            _merge(outer, a)
        else:
            fix((a, b, *left, *right), f"factors of {a.size} and {b.size} meet in one dimension")
            return


def refold(axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """The axes of a tensor after a reshape to `sizes`, which reads the same elements in the same order."""
    rest = [space for axis in axes for space in axis]
    folded: list[Axis] = []
    for size in sizes:
        taken: list[Space] = []
        while size > 1 and rest:
            space = _take(rest)
            if size % space.size == 0:
                taken.append(space)
                size //= space.size
            elif space.size % size == 0:
                outer, inner = split(space, size)
                taken.append(outer)
                rest.insert(0, inner)
                size = 1
            else:
                why = f"a reshape cuts its {space.size} indices at {size}"
                fix((space, *taken, *rest, *(space for axis in folded for space in axis)), why)
                return [fresh(whole, why) for whole in sizes]
        folded.append(tuple(taken))
    return folded


def piece(axis: Axis, size: int, index: int) -> Axis:
    """One of the equal pieces of an axis; each may have its own order, if nothing cut the axis otherwise."""
    why = f"it is one of several pieces of {size} indices"
    first, *others = atoms(axis)
    if first.copies:
        meet((first,))
        return piece(axis, size, index)
    if not others and not first.pieces:
        first.pieces = tuple(
            (Space(size, first.fixed, first.sized or why),) for _ in range(first.size // size)
        )
    if not others and all(size_of(one) == size for one in first.pieces):
        return first.pieces[index]
    number, one = refold([axis], (size_of(axis) // size, size))
    fix(number, "an index of it is picked by its number")
    return one


def pick(axes: Sequence[Axis], dim: int, index: int) -> list[Axis]:
    """The axes of a tensor at one index of a dimension.

    A projection to queries, keys and values at once is reshaped to (…, 3, inner) before an index of the 3 is
    picked. Its outputs are then three pieces, and what inner is depends on the index.
    """
    left = [axis for at, axis in enumerate(axes) if at != dim % len(axes)]
    fix(axes[dim], "an index of it is picked by its number")
    number = atoms(axes[dim])
    if len(number) != 1 or not _becomes_pieces(number[0]):
        return left
    inner = atoms(number[0].rest)
    parts = refold([number[0].choices[index]], [space.size for space in inner])
    chosen = dict(zip(inner, parts, strict=True))
    return [tuple(s for space in atoms(axis) for s in chosen.get(space, (space,))) for axis in left]


def _becomes_pieces(number: Space) -> bool:
    """Make a space that is the product of `number` and another one the concatenation of that many others, if
    so far nothing was tied to either."""
    whole = number.whole
    if number.choices or whole is None:
        return bool(number.choices)
    inner = atoms(number.rest)
    if any(not space.alone or space.pieces or space.copies for space in (number, *inner)):
        return False
    for _ in range(number.size):
        choice = Space(whole.size // number.size, whole.fixed, whole.sized or "it is one of several pieces")
        choice.within = list(whole.within)
        number.choices.append((choice,))
        for space, copy in zip(inner, refold([(choice,)], [space.size for space in inner]), strict=True):
            space.copies.append(copy)
    whole.parts, whole.pieces = (), tuple(number.choices)
    return True


def _take(spaces: list[Space]) -> Space:
    """Remove and return the first atom of a product."""
    first, *others = atoms((spaces.pop(0),))
    spaces[:0] = others
    return first


def _merge(kept: Space, gone: Space) -> None:
    """Two atoms of one size become the same space."""
    gone.same = kept
    kept.alone = False
    kept.within += gone.within
    copies, kept.copies = kept.copies + gone.copies, []
    mine, others = kept.pieces, gone.pieces
    kept.pieces = mine or others
    if why := kept.fixed or gone.fixed:
        fix((kept,), why)
    if why := kept.sized or gone.sized:
        keep_size((kept,), why)
    if mine and others and [size_of(axis) for axis in mine] != [size_of(axis) for axis in others]:
        for axis in ((kept,), *others):
            fix(axis, "differently concatenated tensors meet in one dimension")
    elif mine and others:
        for a, b in zip(mine, others, strict=True):
            tie(a, b)
    for copy in copies:
        tie((kept,), copy)
