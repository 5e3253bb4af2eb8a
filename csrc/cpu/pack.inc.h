// Included inside each ISA's region, after the vector types. Moves between row-major matrices and lane-major
// tiles.

// tile[j][lane] = x[lane][j] for lane < rows, j < columns; lanes rows .. lanes-1 become zero. The tile's rows
// are `lanes` apart, lanes <= Vec::width. Whole vectors are stored, in rising j, so up to width - lanes
// floats behind the tile are overwritten: scratch buffers leave that room.
template <class Vec>
inline void pack_group(const float* x, int64_t x_stride, int64_t rows, int64_t columns, int64_t lanes,
                       float* tile) {
  constexpr int W = Vec::width;
  typename Vec::T block[W];
  int64_t j = 0;
  for (; j < columns; j += W) {
    const int64_t wide = columns - j < W ? columns - j : W;
    const typename Vec::Mask mask = Vec::mask(wide);
    for (int i = 0; i < W; ++i)
      block[i] = i >= rows
                     ? Vec::zero()
                     : (wide == W ? Vec::load(x + i * x_stride + j) : Vec::load(x + i * x_stride + j, mask));
    Vec::transpose(block);
    for (int64_t i = 0; i < wide; ++i) Vec::store(tile + (j + i) * lanes, block[i]);
  }
}

// The same for `groups` vectors of lanes: tile[j][g * width + lane].
template <class Vec>
inline void pack_lanes(const float* x, int64_t x_stride, int64_t rows, int64_t columns, int64_t groups,
                       float* tile) {
  constexpr int W = Vec::width;
  typename Vec::T block[W];
  const int64_t lanes = groups * W;
  for (int64_t g = 0; g < groups; ++g)  // rows one group at a time: as many streams as the prefetcher follows
    for (int64_t j = 0; j < columns; j += W) {
      const int64_t wide = columns - j < W ? columns - j : W;
      const typename Vec::Mask mask = Vec::mask(wide);
      const float* from = x + g * W * x_stride + j;
      for (int i = 0; i < W; ++i)
        block[i] = g * W + i >= rows
                       ? Vec::zero()
                       : (wide == W ? Vec::load(from + i * x_stride) : Vec::load(from + i * x_stride, mask));
      Vec::transpose(block);
      for (int64_t i = 0; i < wide; ++i) Vec::store(tile + (j + i) * lanes + g * W, block[i]);
    }
}

// y[lane][j] = tile[j][lane] for lane < rows, j < columns.
template <class Vec>
inline void unpack_lanes(const float* tile, int64_t lanes, int64_t rows, int64_t columns, float* y,
                         int64_t y_stride) {
  constexpr int W = Vec::width;
  typename Vec::T block[W];
  for (int64_t j = 0; j < columns; j += W) {
    const int64_t wide = columns - j < W ? columns - j : W;
    const typename Vec::Mask mask = Vec::mask(wide);
    for (int64_t g = 0; g < rows; g += W) {
      for (int64_t i = 0; i < W; ++i)
        block[i] = i < wide ? Vec::load(tile + (j + i) * lanes + g) : Vec::zero();
      Vec::transpose(block);
      const int64_t high = rows - g < W ? rows - g : W;
      for (int64_t i = 0; i < high; ++i) {
        float* to = y + (g + i) * y_stride + j;
        if (wide == W)
          Vec::store(to, block[i]);
        else
          Vec::store(to, block[i], mask);
      }
    }
  }
}
