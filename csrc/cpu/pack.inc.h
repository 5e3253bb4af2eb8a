// Included inside each ISA's region, after the vector types. Moves between row-major matrices and lane-major
// tiles.

// An address made whole before its first use. Compilers keep it as base + index, and an instruction with two
// such registers and an operand that it also writes is split by the core's front end.
inline const float* in_one_register(const float* address) {
#if defined(__GNUC__)
  __asm__("" : "+r"(address));
#endif
  return address;
}

// block[i] = row i of x, columns [j, j + wide), transposed; rows that x lacks become zero.
template <class Vec>
inline void load_transposed(const float* x, int64_t x_stride, int64_t rows, int64_t j, int64_t wide,
                            typename Vec::T (&block)[Vec::width]) {
  constexpr int W = Vec::width;
  const typename Vec::Mask mask = Vec::mask(wide);
  for (int i = 0; i < W; ++i)
    block[i] = i >= rows
                   ? Vec::zero()
                   : (wide == W ? Vec::load(x + i * x_stride + j) : Vec::load(x + i * x_stride + j, mask));
  Vec::transpose(block);
}

// Columns of x to be packed: so many of them, those that `live` lists (rising, of `all`), or the first.
struct Columns {
  int64_t count, all;
  const int32_t* live;

  Columns(int64_t number) : count(number), all(number), live(nullptr) {}
  Columns(int64_t number, int64_t among, const int32_t* which) : count(number), all(among), live(which) {}
};

// Those of x that a kernel packs.
inline Columns columns_of(const LinearArgs& a) { return {a.packed_columns(), a.k, a.live}; }

// tile[j][lane] = x[lane][column j] for lane < rows; lanes rows .. width-1 become zero. The tile's rows are
// `step` apart. Whole vectors are stored, in rising j, so where step < width the floats behind the tile are
// overwritten: scratch buffers leave that room.
template <class Vec>
inline void pack_group(const float* x, int64_t x_stride, int64_t rows, Columns columns, int64_t step,
                       float* tile) {
  constexpr int W = Vec::width;
  typename Vec::T block[W];
  if (!columns.live) {
    for (int64_t j = 0; j < columns.count; j += W) {
      const int64_t wide = columns.count - j < W ? columns.count - j : W;
      load_transposed<Vec>(x, x_stride, rows, j, wide, block);
      for (int64_t i = 0; i < wide; ++i) Vec::store(tile + (j + i) * step, block[i]);
    }
    return;
  }
  for (int64_t i = 0; i < columns.count;) {
    const int64_t j = columns.live[i] / W * W, wide = columns.all - j < W ? columns.all - j : W;
    load_transposed<Vec>(x, x_stride, rows, j, wide, block);
    for (; i < columns.count && columns.live[i] < j + W; ++i)
      Vec::store(tile + i * step, block[columns.live[i] - j]);
  }
}

// The same for `groups` vectors of lanes: tile[j][g * width + lane].
template <class Vec>
inline void pack_lanes(const float* x, int64_t x_stride, int64_t rows, Columns columns, int64_t groups,
                       float* tile) {
  constexpr int W = Vec::width;
  for (int64_t g = 0; g < groups; ++g)  // rows one group at a time: as many streams as the prefetcher follows
    pack_group<Vec>(x + g * W * x_stride, x_stride, rows - g * W, columns, groups * W, tile + g * W);
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
