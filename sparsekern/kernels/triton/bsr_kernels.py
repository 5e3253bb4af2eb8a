"""The Triton kernels of block-sparse products.

One product serves a layer and its gradients. In tiles of ``ROWS`` rows it computes

    y[:, wide side of block row r] = act(sum over the blocks of r of x[:, its deep side] @ block + bias)

Forward, a stored block (out, in) is wide in its outputs and deep in its inputs. For the gradient of the input
it is read the other way round (``TRANSPOSED``): the same values, under an index by columns, whose ``slot``
says where in ``values`` a block lies.

``order`` lists the block rows, longest first: tiles are handed out in this order, so that the last ones to
finish are short (longest processing time first; Graham 1969). ``GROUP`` tiles of rows are neighbours in that
order, and so find a block row's weights in L2.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activate(y, ACTIVATION: tl.constexpr):
    """ReLU (1) or GELU (2) as torch computes them; NaN stays NaN."""
    if ACTIVATION == 1:
        y = tl.where(y <= 0, 0.0, y)
    if ACTIVATION == 2:
        y = 0.5 * y * (1 + tl.erf(y * 0.7071067811865476))
    return y


@triton.jit
def add_bias(acc, bias, outputs, n, HAS_BIAS: tl.constexpr):
    """``acc`` (rows, outputs) plus the bias of each output."""
    if HAS_BIAS:
        acc += tl.load(bias + outputs, mask=outputs < n, other=0.0).to(tl.float32)[None, :]
    return acc


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """``acc + a @ b`` in float32. ``WIDEN`` is for the interpreter, whose bfloat16 are integers."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def dot_either(a, w, acc, WEIGHTS_FIRST: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """``acc + a @ w``, or all of it transposed."""
    if WEIGHTS_FIRST:
        acc = dot(w.T, a.T, acc, PRECISION, WIDEN)
    else:
        acc = dot(a, w, acc, PRECISION, WIDEN)
    return acc


@triton.jit
def tile_of(t, m_tiles, block_rows, order, GROUP: tl.constexpr):
    """(block row, tile of rows) of the ``t``-th tile: ``GROUP`` tiles of rows go through all block rows."""
    group = t // (GROUP * block_rows)
    high = min(m_tiles - group * GROUP, GROUP)
    within = t - group * GROUP * block_rows
    return tl.load(order + within // high), group * GROUP + within % high


@triton.jit
def places(col, slot, j, end, TRANSPOSED: tl.constexpr):
    """(block column, place in ``values``) of the ``j``-th blocks; the latter where the index says it.

    Loops ask for those of their next turn. If they were loaded in the turn that needs them, the compiler
    would take half of the stages for these loads, and fetch x and weights less far ahead.
    """
    column = tl.load(col + j, mask=j < end, other=0)
    if TRANSPOSED:
        place = tl.load(slot + j, mask=j < end, other=0)
    else:
        place = column
    return column, place


@triton.jit
def product_tma(
    x,  # descriptor (m, k), in boxes (ROWS, STEP)
    values,  # descriptor (blocks * out, in), in boxes of STEP of the deep side and all of the wide one
    y,  # descriptor (m, n), in boxes (ROWS, WIDE)
    bias,
    crow,
    col,
    slot,
    order,
    m,
    n,
    k,
    block_rows,
    stored,  # blocks
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
    PERSISTENT: tl.constexpr,
    WEIGHTS_FIRST: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The product through tensor descriptors: Hopper's copy engine fetches tiles and fills edges with zeros.

    A ``PERSISTENT`` program goes on to its next tile, which is loaded while the last one is stored. With
    ``WEIGHTS_FIRST`` the tile is computed as its transpose: a matrix instruction then has 64 outputs on its
    first side and up to 256 rows on its second, and reads shared memory less often for its work than the
    other way round, where it has 64 rows and the ``WIDE`` outputs.
    """
    m_tiles = tl.cdiv(m, ROWS)
    for t in tl.range(tl.program_id(0), m_tiles * block_rows, tl.num_programs(0), flatten=PERSISTENT):
        row, m_tile = tile_of(t, m_tiles, block_rows, order, GROUP)
        first = m_tile * ROWS
        begin = tl.load(crow + row)
        end = tl.load(crow + row + 1)
        acc = tl.zeros((WIDE, ROWS) if WEIGHTS_FIRST else (ROWS, WIDE), tl.float32)
        if STEP > DEEP:
            for step in tl.range(begin, end, STEP // DEEP, num_stages=STAGES):
                for i in tl.static_range(STEP // DEEP):
                    j = step + i
                    column, place = places(col, slot, j, end, TRANSPOSED)
                    a = x.load([first, tl.where(j < end, column * DEEP, k)])
                    if TRANSPOSED:
                        w = values.load([tl.where(j < end, place, stored) * DEEP, 0])
                    else:
                        w = values.load([tl.where(j < end, j, stored) * WIDE, 0]).T
                    acc = dot_either(a, w, acc, WEIGHTS_FIRST, PRECISION, WIDEN)
        else:
            PARTS: tl.constexpr = DEEP // STEP
            column, place = places(col, slot, begin, end, TRANSPOSED)
            for step in tl.range(begin * PARTS, end * PARTS, num_stages=STAGES):
                part = (step % PARTS) * STEP
                a = x.load([first, column * DEEP + part])
                if TRANSPOSED:
                    w = values.load([place * DEEP + part, 0])
                else:
                    w = values.load([step // PARTS * WIDE, part]).T
                acc = dot_either(a, w, acc, WEIGHTS_FIRST, PRECISION, WIDEN)
                column, place = places(col, slot, (step + 1) // PARTS, end, TRANSPOSED)
        if WEIGHTS_FIRST:
            acc = acc.T
        acc = add_bias(acc, bias, row * WIDE + tl.arange(0, WIDE), n, HAS_BIAS)
        y.store([first, row * WIDE], activate(acc, ACTIVATION).to(y.dtype))


@triton.jit
def block_step(
    x_rows,
    row_mask,
    values,
    column,  # (STEP,): the block column of each term
    place,  # (STEP,): where its block lies in ``values``
    here,  # (STEP,): whether there is such a block
    term,  # (STEP,): the place of each term within its block
    wide,  # (WIDE,)
    k,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """A step's operands: x (rows, STEP) and weights (STEP, WIDE), zero beyond the block row and beyond k."""
    input = column * DEEP + term
    a_mask = row_mask[:, None] & (here & (input < k))[None, :]
    a = tl.load(x_rows[:, None] + input[None, :], mask=a_mask, other=0.0)
    begin = place.to(tl.int64) * (WIDE * DEEP)
    if TRANSPOSED:
        w = values + (begin + term * WIDE)[:, None] + wide[None, :]
    else:
        w = values + (begin + term)[:, None] + (wide * DEEP)[None, :]
    return a, tl.load(w, mask=here[:, None], other=0.0)


@triton.jit
def product_pointers(
    x,
    values,
    y,
    bias,
    crow,
    col,
    slot,
    order,
    m,
    n,
    k,
    block_rows,
    stride,  # elements from one row of x to the next
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The product through addresses, for GPUs before Hopper and for rows that no descriptor takes.

    ``STEP`` may span several blocks of a row, so that narrow blocks fill a matrix instruction too.
    """
    m_tiles = tl.cdiv(m, ROWS)
    for t in tl.range(tl.program_id(0), m_tiles * block_rows, tl.num_programs(0)):
        row, m_tile = tile_of(t, m_tiles, block_rows, order, GROUP)
        rows = m_tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
        row_mask = rows < m
        x_rows = x + rows * stride
        lane = tl.arange(0, STEP)
        wide = tl.arange(0, WIDE)
        begin = tl.load(crow + row)
        end = tl.load(crow + row + 1)
        acc = tl.zeros((ROWS, WIDE), tl.float32)
        column, place = places(col, slot, begin + lane // DEEP, end, TRANSPOSED)
        for step in tl.range(0, (end - begin) * DEEP, STEP, num_stages=STAGES):
            j = begin + (step + lane) // DEEP
            term = (step + lane) % DEEP
            held = place if TRANSPOSED else j
            a, w = block_step(
                x_rows, row_mask, values, column, held, j < end, term, wide, k, WIDE, DEEP, TRANSPOSED
            )
            acc = dot(a, w, acc, PRECISION, WIDEN)
            column, place = places(col, slot, begin + (step + STEP + lane) // DEEP, end, TRANSPOSED)
        outputs = row * WIDE + wide
        acc = add_bias(acc, bias, outputs, n, HAS_BIAS)
        mask = row_mask[:, None] & (outputs < n)[None, :]
        tl.store(
            y + (rows * n)[:, None] + outputs[None, :],
            activate(acc, ACTIVATION).to(y.dtype.element_ty),
            mask=mask,
        )


@triton.jit
def product_few(
    x,
    values,
    y,  # (m, n), or with SPLIT above 1 float32 (SPLIT, m, n): sums of parts, without bias and activation
    bias,
    crow,
    col,
    slot,
    order,
    m,
    n,
    k,
    stride,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    STAGES: tl.constexpr,
    SPLIT: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The product for few rows of x, where reading the weights is all the work.

    Weights lie on the wide side of the matrix instruction, all rows of x on the narrow one. A block row may
    be cut into SPLIT equal parts, so that enough loads are in flight; ``finish`` adds them in a fixed order.
    """
    row = tl.load(order + tl.program_id(0))
    part = tl.program_id(1)
    rows = tl.arange(0, ROWS)
    row_mask = rows < m
    x_rows = x + rows.to(tl.int64) * stride
    lane = tl.arange(0, STEP)
    wide = tl.arange(0, WIDE)
    first = tl.load(crow + row)
    length = tl.load(crow + row + 1) - first
    begin = first + length * part // SPLIT
    end = first + length * (part + 1) // SPLIT
    acc = tl.zeros((WIDE, ROWS), tl.float32)
    column, place = places(col, slot, begin + lane // DEEP, end, TRANSPOSED)
    for step in tl.range(0, (end - begin) * DEEP, STEP, num_stages=STAGES):
        j = begin + (step + lane) // DEEP
        term = (step + lane) % DEEP
        held = place if TRANSPOSED else j
        a, w = block_step(
            x_rows, row_mask, values, column, held, j < end, term, wide, k, WIDE, DEEP, TRANSPOSED
        )
        acc = dot(w.T, a.T, acc, PRECISION, WIDEN)
        column, place = places(col, slot, begin + (step + STEP + lane) // DEEP, end, TRANSPOSED)
    outputs = row * WIDE + wide
    sums = acc.T
    if SPLIT == 1:
        sums = activate(add_bias(sums, bias, outputs, n, HAS_BIAS), ACTIVATION)
    to = (part * m + rows).to(tl.int64) * n
    mask = row_mask[:, None] & (outputs < n)[None, :]
    tl.store(y + to[:, None] + outputs[None, :], sums.to(y.dtype.element_ty), mask=mask)


@triton.jit
def finish(
    parts,  # float32 (SPLIT, count)
    y,  # (count,)
    bias,
    count,
    n,
    SPLIT: tl.constexpr,
    SIZE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Adds parts of sums in their order, then bias and activation: the same bits in every run."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    mask = at < count
    total = tl.zeros((SIZE,), tl.float32)
    for _ in range(SPLIT):
        total += tl.load(parts + at, mask=mask, other=0.0)
        parts += count
    if HAS_BIAS:
        total += tl.load(bias + at % n, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + at, activate(total, ACTIVATION).to(y.dtype.element_ty), mask=mask)


@triton.jit
def values_gradient(
    grad,  # (m, n)
    x,  # (m, k)
    to,  # (blocks, OUT, IN), or with SPLIT above 1 float32 (SPLIT, blocks, OUT, IN)
    col,
    chunk_row,
    chunk_begin,
    chunk_end,
    m,
    n,
    k,
    blocks,
    grad_stride,
    x_stride,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    CHUNK: tl.constexpr,
    STEP: tl.constexpr,
    STAGES: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """gradᵀ x at the stored blocks only: CHUNK blocks of one block row share the rows' gradients.

    The rows are cut into SPLIT parts where there are few chunks; ``finish`` adds them in a fixed order.
    """
    chunk = tl.program_id(0)
    part = tl.program_id(1)
    row = tl.load(chunk_row + chunk)
    lane = tl.arange(0, CHUNK * IN)
    j = tl.load(chunk_begin + chunk) + lane // IN
    here = j < tl.load(chunk_end + chunk)
    column = tl.load(col + j, mask=here, other=0) * IN + lane % IN
    here_column = here & (column < k)
    out = tl.arange(0, OUT)
    outputs = row * OUT + out
    share = tl.cdiv(tl.cdiv(m, STEP), SPLIT) * STEP
    first = part * share
    acc = tl.zeros((OUT, CHUNK * IN), tl.float32)
    for step in tl.range(first, min(first + share, m), STEP, num_stages=STAGES):
        rows = step + tl.arange(0, STEP).to(tl.int64)
        row_mask = (rows < m)[:, None]
        up = tl.load(
            grad + (rows * grad_stride)[:, None] + outputs[None, :],
            mask=row_mask & (outputs < n)[None, :],
            other=0.0,
        )
        a = tl.load(
            x + (rows * x_stride)[:, None] + column[None, :], mask=row_mask & here_column[None, :], other=0.0
        )
        acc = dot(up.T, a, acc, PRECISION, WIDEN)
    to += (part * blocks + j).to(tl.int64)[None, :] * (OUT * IN) + out[:, None] * IN + (lane % IN)[None, :]
    tl.store(to, acc.to(to.dtype.element_ty), mask=here[None, :] & (out >= 0)[:, None])
