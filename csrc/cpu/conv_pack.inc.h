// Included inside each ISA's region. Moves between maps and the planes and sums of a tile (conv.h).

// Elements `stride` columns apart, as many as a vector has lanes or fewer.
template <class Vec>
struct StridedLoad {
  static constexpr int W = Vec::width;
  int64_t stride;
  int32_t steps[W];

  explicit StridedLoad(int64_t of) : stride(of) {
    for (int i = 0; i < W; ++i) steps[i] = int32_t(i * of);
  }

  // Nothing behind the last element is touched.
  typename Vec::T whole(const float* x) const {
    if (stride > 2) return Vec::gather(x, steps);
    return Vec::even(Vec::load(x), Vec::load(x + W, Vec::mask(W - 1)));
  }
  typename Vec::T part(const float* x, int64_t count, typename Vec::Mask mask) const {
    if (stride > 2) return Vec::gather(x, steps, mask);
    const int64_t reach = 2 * count - 1, low = reach < W ? reach : W;
    return Vec::even(Vec::load(x, Vec::mask(low)), Vec::load(x + low, Vec::mask(reach - low)));
  }
};

template <class Vec>
struct PlainLoad {
  static typename Vec::T whole(const float* x) { return Vec::load(x); }
  static typename Vec::T part(const float* x, int64_t, typename Vec::Mask mask) { return Vec::load(x, mask); }
};

// Columns side by side, each channel by itself: NCHW.
template <class Vec, class Load>
inline void pack_channels(const ConvTile& tile, const Load& load, const int32_t* live, int64_t channels,
                          float* packed) {
  const int64_t step = tile.row_step();
  for (int64_t i = 0; i < channels; ++i, packed += tile.step()) {
    const float* x = tile.a.x + live[i] * tile.a.x_strides.channel;
    for (const ConvMove& move : tile.zeros)
      for (int64_t row = 0; row < move.rows; ++row)
        Vec::store(packed + move.to + row * Vec::width, Vec::zero());
    for (const ConvMove& move : tile.whole) {
      const float* from = x + move.from;
      float* to = packed + move.to;
      for (int64_t row = 0; row < move.rows; ++row, from += step, to += Vec::width)
        Vec::store(to, load.whole(from));
    }
    for (const ConvMove& move : tile.parts) {
      const float* from = x + move.from;
      float* to = packed + move.to;
      const typename Vec::Mask mask = Vec::mask(move.count);
      for (int64_t row = 0; row < move.rows; ++row, from += step, to += Vec::width)
        Vec::store(to, load.part(from, move.count, mask), mask);
    }
  }
}

// Channels side by side: channels last. Blocks of channels and lanes are transposed.
template <class Vec>
inline void pack_positions(const ConvTile& tile, const int32_t* live, int64_t channels, float* packed) {
  constexpr int W = Vec::width;
  const ConvArgs& a = tile.a;
  typename Vec::T block[W];
  for (int64_t vector = 0; vector < tile.planes.of_group; ++vector) {
    const int64_t* from = tile.lanes.data() + vector * W;
    for (int64_t i = 0; i < channels;) {
      const int64_t first = live[i] / W * W, wide = a.channels - first < W ? a.channels - first : W;
      const typename Vec::Mask mask = Vec::mask(wide);
      for (int lane = 0; lane < W; ++lane)
        block[lane] = from[lane] < 0 ? Vec::zero() : Vec::load(a.x + from[lane] + first, mask);
      Vec::transpose(block);
      for (; i < channels && live[i] < first + W; ++i)
        Vec::store(packed + (i * tile.planes.of_group + vector) * W, block[live[i] - first]);
    }
  }
}

// The planes of `count` live channels from that number on: where they lie already, or packed.
template <class Vec>
inline const float* planes_of(const ConvTile& tile, const int32_t* live, int64_t first, int64_t count,
                              float* packed) {
  if (tile.in_place) return tile.in_place + first * tile.step();
  if (tile.a.x_strides.column == 1 && tile.a.stride_w == 1)
    pack_channels<Vec>(tile, PlainLoad<Vec>(), live + first, count, packed);
  else if (tile.a.x_strides.column == 1)
    pack_channels<Vec>(tile, StridedLoad<Vec>(tile.a.stride_w), live + first, count, packed);
  else
    pack_positions<Vec>(tile, live + first, count, packed);
  return packed;
}

// A sum becomes an output: the residual added, then the activation. `at` is where y and residual have it.
template <class Vec>
inline void store_output(const ConvArgs& a, int64_t at, typename Vec::T sum, typename Vec::Mask mask) {
  if (a.residual) sum = Vec::add(sum, Vec::load(a.residual + at, mask));
  if (a.activation == Activation::kRelu) sum = Vec::max(Vec::zero(), sum);  // NaN stays
  if (a.activation == Activation::kGelu) sum = gelu<Vec>(sum);
  Vec::store(a.y + at, sum, mask);
}

// Where the outputs of a piece's row start in y.
inline int64_t start_of(const ConvTile& tile, const ConvPiece& piece, int64_t row) {
  const MapStrides& y = tile.a.y_strides;
  return piece.image * y.image + (piece.first_row + tile.row0 + row) * y.row + piece.column * y.column;
}

// Asks for the lines of y that a piece writes of one output: unpack_sums writes a little of each of many
// pages, which no prefetcher foresees. Into L2, not for writing: the planes stay in L1.
inline void prefetch_output(const ConvTile& tile, const ConvPiece& piece, int64_t n) {
  const float* y = tile.a.y + n * tile.a.y_strides.channel;
  for (int64_t row = 0; row < tile.outputs_down(piece); ++row) prefetch_line(y + start_of(tile, piece, row));
}

// sums[output - first][row of the tile][lane], for outputs [first, last), to y.
template <class Vec>
inline void unpack_sums(const ConvTile& tile, int64_t first, int64_t last, const float* sums) {
  constexpr int W = Vec::width;
  const ConvArgs& a = tile.a;
  const MapStrides& y = a.y_strides;
  if (y.column == 1) {
    constexpr int64_t kAhead = 16;  // outputs: so many lines are under way when the stores come
    for (int64_t n = first; n < last; ++n)
      for (const ConvPiece& piece : tile.pieces) {
        if (n + kAhead < last) prefetch_output(tile, piece, n + kAhead);
        const int64_t rows = tile.outputs_down(piece);
        const float* from = sums + (n - first) * tile.rows * W + piece.lane;
        typename Vec::Mask mask = Vec::mask(piece.count);
        for (int64_t row = 0; row < rows; ++row) {
          if (row == rows - 1) mask = Vec::mask(tile.outputs_across(piece, row));  // of no other row
          store_output<Vec>(a, start_of(tile, piece, row) + n * y.channel, Vec::load(from + row * W, mask),
                            mask);
        }
      }
    return;
  }
  typename Vec::T block[W];
  for (int64_t row = 0; row < tile.rows; ++row)
    for (int64_t n = first; n < last; n += W) {
      const int64_t wide = last - n < W ? last - n : W;
      const typename Vec::Mask mask = Vec::mask(wide);
      for (int64_t i = 0; i < W; ++i)
        block[i] = i < wide ? Vec::load(sums + ((n - first + i) * tile.rows + row) * W) : Vec::zero();
      Vec::transpose(block);
      for (const ConvPiece& piece : tile.pieces)
        if (row < tile.outputs_down(piece))
          for (int64_t i = 0; i < tile.outputs_across(piece, row); ++i)
            store_output<Vec>(a, start_of(tile, piece, row) + i * y.column + n, block[piece.lane + i], mask);
    }
}
