"""The Triton kernels of block-sparse convolutions: implicit products on images that lie channels last.

A stored block multiplies ``DEEP`` channels at one place (r, s) of the kernel, so a row of blocks is a table
of steps (r, s, channels), and places without blocks are never visited. As in ``bsr_kernels.py``, one product
serves the layer and the gradient of its input: that one reads blocks the other way round, and goes from the
positions of the input back to those outputs that saw them.

Rows of a product are positions (image, row, column) of what is computed, in this order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sparsekern.kernels.triton.bsr_kernels import activate, add_bias, dot, dot_either, places, tile_of


@triton.jit
def place_of(c, depth_blocks, KW: tl.constexpr, DEEP: tl.constexpr):
    """(r, s, first channel) of the ``c``-th block column, columns in the order (r, s, channels)."""
    tap = c // depth_blocks
    return tap // KW, tap % KW, (c % depth_blocks) * DEEP


@triton.jit
def line_seen(at, tap, size, stride, pad, dilation, TRANSPOSED: tl.constexpr):
    """Which line (row or column) of x meets output line ``at`` through a tap, and whether there is one.

    Transposed, ``at`` is a line of the layer's input, and x the gradient of its output.
    """
    if TRANSPOSED:
        offset = at + pad - tap * dilation
        line = offset // stride
        there = (offset >= 0) & (line * stride == offset) & (line < size)
    else:
        line = at * stride - pad + tap * dilation
        there = (line >= 0) & (line < size)
    return line, there


@triton.jit
def conv_product_tma(
    x,  # descriptor (batch, height, width, channels), in boxes (BATCH, HIGH, ACROSS, STEP)
    values,  # descriptor (blocks * out, in), in boxes of STEP of the deep side and all of the wide one
    y,  # descriptor (batch, y_height, y_width, n), in boxes (BATCH, HIGH, ACROSS, WIDE)
    bias,
    residual,  # as y, or None
    crow,
    col,
    slot,
    order,
    tiles_batch,
    tiles_high,
    tiles_across,
    n,
    block_rows,
    rows_in_group,
    depth_blocks,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    KW: tl.constexpr,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
    BATCH: tl.constexpr,
    HIGH: tl.constexpr,
    ACROSS: tl.constexpr,
    STEP: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
    WEIGHTS_FIRST: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The product of convolutions without stride, through tensor descriptors.

    A tile is a box of output positions, and what it sees through a tap is the same box, shifted: one load of
    the copy engine, which puts zeros where the box reaches over the image's edges. So padding costs nothing.
    """
    PARTS: tl.constexpr = DEEP // STEP
    ROWS: tl.constexpr = BATCH * HIGH * ACROSS
    m_tiles = tiles_batch * tiles_high * tiles_across
    row, m_tile = tile_of(tl.program_id(0), m_tiles, block_rows, order, GROUP)
    left = m_tile % tiles_across * ACROSS
    top = m_tile // tiles_across % tiles_high * HIGH
    image = m_tile // tiles_across // tiles_high * BATCH
    channels = row // rows_in_group * depth_blocks * DEEP
    begin = tl.load(crow + row) * PARTS
    end = tl.load(crow + row + 1) * PARTS
    acc = tl.zeros((WIDE, ROWS) if WEIGHTS_FIRST else (ROWS, WIDE), tl.float32)
    column, held = places(col, slot, begin // PARTS, end // PARTS, TRANSPOSED)
    for step in tl.range(begin, end, num_stages=STAGES):
        part = (step % PARTS) * STEP
        r, s, channel = place_of(column, depth_blocks, KW, DEEP)
        if TRANSPOSED:
            h, w = pad_h - r * dilation_h, pad_w - s * dilation_w
            weights = values.load([held * DEEP + part, 0])
        else:
            h, w = r * dilation_h - pad_h, s * dilation_w - pad_w
            weights = values.load([step // PARTS * WIDE, part]).T
        a = x.load([image, top + h, left + w, channels + channel + part]).reshape(ROWS, STEP)
        acc = dot_either(a, weights, acc, WEIGHTS_FIRST, PRECISION, WIDEN)
        column, held = places(col, slot, (step + 1) // PARTS, end // PARTS, TRANSPOSED)
    if WEIGHTS_FIRST:
        acc = acc.T
    acc = add_bias(acc, bias, row * WIDE + tl.arange(0, WIDE), n, HAS_BIAS)
    if HAS_RESIDUAL:
        acc += residual.load([image, top, left, row * WIDE]).reshape(ROWS, WIDE).to(tl.float32)
    acc = activate(acc, ACTIVATION).to(y.dtype)
    y.store([image, top, left, row * WIDE], acc.reshape(BATCH, HIGH, ACROSS, WIDE))


@triton.jit
def conv_product(
    x,  # (batch, height, width, channels) by its strides; that of a channel is 1
    values,
    y,  # (positions, n)
    bias,
    residual,  # as y
    crow,
    col,
    slot,
    order,
    positions,
    n,
    block_rows,
    rows_in_group,  # block rows of one group of the convolution
    depth_blocks,  # blocks of channels that a group reads
    channels,  # that a group reads; the last block may have fewer
    y_height,
    y_width,
    height,
    width,
    batch_stride,
    row_stride,
    column_stride,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    KW: tl.constexpr,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The product. ``STEP`` may span several blocks of a row, each at its own place of the kernel."""
    row, m_tile = tile_of(tl.program_id(0), tl.cdiv(positions, ROWS), block_rows, order, GROUP)
    at = m_tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = at < positions
    y_row = (at // y_width % y_height).to(tl.int32)
    y_column = (at % y_width).to(tl.int32)
    image = x + at // y_width // y_height * batch_stride + row // rows_in_group * depth_blocks * DEEP
    wide = tl.arange(0, WIDE)
    lane = tl.arange(0, STEP)
    begin = tl.load(crow + row)
    end = tl.load(crow + row + 1)
    acc = tl.zeros((ROWS, WIDE), tl.float32)
    for step in tl.range(0, (end - begin) * DEEP, STEP, num_stages=STAGES):
        term = (step + lane) % DEEP
        j = begin + (step + lane) // DEEP
        here = j < end
        if STEP > DEEP:
            r, s, channel = place_of(tl.load(col + j, mask=here, other=0), depth_blocks, KW, DEEP)
            h, h_there = line_seen(
                y_row[:, None], r[None, :], height, stride_h, pad_h, dilation_h, TRANSPOSED
            )
            w, w_there = line_seen(
                y_column[:, None], s[None, :], width, stride_w, pad_w, dilation_w, TRANSPOSED
            )
            pixel = image[:, None] + h.to(tl.int64) * row_stride + w.to(tl.int64) * column_stride
            mask = there[:, None] & h_there & w_there & (here & (channel + term < channels))[None, :]
            a = tl.load(pixel + (channel + term)[None, :], mask=mask, other=0.0)
        else:
            block = tl.load(col + begin + step // DEEP)
            r, s, channel = place_of(block, depth_blocks, KW, DEEP)
            h, h_there = line_seen(y_row, r, height, stride_h, pad_h, dilation_h, TRANSPOSED)
            w, w_there = line_seen(y_column, s, width, stride_w, pad_w, dilation_w, TRANSPOSED)
            pixel = image + h.to(tl.int64) * row_stride + w.to(tl.int64) * column_stride
            mask = (there & h_there & w_there)[:, None] & (channel + term < channels)[None, :]
            a = tl.load(pixel[:, None] + (channel + term)[None, :], mask=mask, other=0.0)
        if TRANSPOSED:
            held = tl.load(slot + j, mask=here, other=0).to(tl.int64) * (WIDE * DEEP)
            weights = values + (held + term * WIDE)[:, None] + wide[None, :]
        else:
            weights = values + (j.to(tl.int64) * (WIDE * DEEP) + term)[:, None] + (wide * DEEP)[None, :]
        acc = dot(a, tl.load(weights, mask=here[:, None], other=0.0), acc, PRECISION, WIDEN)
    outputs = row * WIDE + wide
    mask = there[:, None] & (outputs < n)[None, :]
    to = (at * n)[:, None] + outputs[None, :]
    acc = add_bias(acc, bias, outputs, n, HAS_BIAS)
    if HAS_RESIDUAL:
        acc += tl.load(residual + to, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + to, activate(acc, ACTIVATION).to(y.dtype.element_ty), mask=mask)


@triton.jit
def conv_values_gradient(
    grad,  # (positions, n)
    x,  # (batch, height, width, channels) by its strides
    to,  # (blocks, OUT, IN), or with SPLIT above 1 float32 (SPLIT, blocks, OUT, IN)
    col,
    chunk_row,
    chunk_begin,
    chunk_end,
    positions,
    n,
    blocks,
    rows_in_group,
    depth_blocks,
    y_height,
    y_width,
    height,
    width,
    batch_stride,
    row_stride,
    column_stride,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    KW: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    CHUNK: tl.constexpr,
    STEP: tl.constexpr,
    STAGES: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The gradient of the stored blocks only, as ``values_gradient`` computes it; a program's CHUNK blocks
    are each at their own place of the kernel."""
    chunk = tl.program_id(0)
    part = tl.program_id(1)
    row = tl.load(chunk_row + chunk)
    lane = tl.arange(0, CHUNK * IN)
    j = tl.load(chunk_begin + chunk) + lane // IN
    here = j < tl.load(chunk_end + chunk)
    r, s, channel = place_of(tl.load(col + j, mask=here, other=0), depth_blocks, KW, IN)
    channel += row // rows_in_group * depth_blocks * IN + lane % IN
    out = tl.arange(0, OUT)
    outputs = row * OUT + out
    share = tl.cdiv(tl.cdiv(positions, STEP), SPLIT) * STEP
    first = part * share
    acc = tl.zeros((OUT, CHUNK * IN), tl.float32)
    for step in tl.range(first, min(first + share, positions), STEP, num_stages=STAGES):
        at = step + tl.arange(0, STEP).to(tl.int64)
        there = at < positions
        up_mask = there[:, None] & (outputs < n)[None, :]
        up = tl.load(grad + (at * n)[:, None] + outputs[None, :], mask=up_mask, other=0.0)
        y_row = (at // y_width % y_height).to(tl.int32)[:, None]
        y_column = (at % y_width).to(tl.int32)[:, None]
        h, h_there = line_seen(y_row, r[None, :], height, stride_h, pad_h, dilation_h, False)
        w, w_there = line_seen(y_column, s[None, :], width, stride_w, pad_w, dilation_w, False)
        image = x + at // y_width // y_height * batch_stride
        pixel = image[:, None] + h.to(tl.int64) * row_stride + w.to(tl.int64) * column_stride
        mask = there[:, None] & h_there & w_there & here[None, :]
        a = tl.load(pixel + channel[None, :], mask=mask, other=0.0)
        acc = dot(up.T, a, acc, PRECISION, WIDEN)
    to += (part * blocks + j).to(tl.int64)[None, :] * (OUT * IN) + out[:, None] * IN + (lane % IN)[None, :]
    tl.store(to, acc.to(to.dtype.element_ty), mask=here[None, :] & (out >= 0)[:, None])
