// Included inside each ISA's region. The gradient of the values of Linear for blocks whose outputs do not
// fill a vector: lanes are rows of the batch, as in grad_panels.inc.h, without its index.
//
// The gradients of four outputs stay in registers. A block asks for R vectors of its column's inputs, R loads
// for 4 R FMAs, and sums four products over their lanes at once.

// Blocks of one block row, outputs lane .. lane + J of each. `grad` has R vectors for each output, `x` for
// each column.
template <class Vec, int J, int R>
void short_blocks(const LinearGradArgs& a, int64_t block_row, int64_t lane, bool add, const float* grad,
                  const float* x) {
  using T = typename Vec::T;
  constexpr int W = Vec::width;
  T up[J][R];
  for (int i = 0; i < J; ++i)
    for (int r = 0; r < R; ++r) up[i][r] = Vec::load(grad + (i * R + r) * W);
  for (int64_t j = a.crow[block_row]; j < a.crow[block_row + 1]; ++j) {
    const float* column = x + int64_t(a.col[j]) * (R * W);
    T sum[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
    SPARSEKERN_UNROLL
    for (int r = 0; r < R; ++r) {
      const T each = Vec::load(column + r * W);
      SPARSEKERN_UNROLL
      for (int i = 0; i < J; ++i) sum[i] = Vec::fma(each, up[i][r], sum[i]);
    }
    float four[4];
    Vec::reduce4(sum, four);
    float* to = a.out + j * a.v + lane;
    if (add) {
      SPARSEKERN_UNROLL
      for (int i = 0; i < J; ++i) four[i] += to[i];
    }
    SPARSEKERN_UNROLL
    for (int i = 0; i < J; ++i) to[i] = four[i];
  }
}

template <class Vec>
struct GradValuesShort {
  static constexpr int W = Vec::width;
  // Gradients and sums of four outputs must fit in the registers, with two to spare.
  static constexpr int kVectors = (Vec::registers - 6) / 4 < 4 ? (Vec::registers - 6) / 4 : 4;

  static bool takes(const LinearGradArgs& a) { return a.v < W; }
  // Outputs whose gradients are packed at once: those of whole block rows, a vector or fewer.
  static int64_t outputs_at_once(const LinearGradArgs& a) { return W / a.v * a.v; }
  static size_t scratch_floats(const LinearGradArgs& a) { return size_t((a.k + 4 * W) * kVectors * W); }

  using Blocks = void (*)(const LinearGradArgs&, int64_t, int64_t, bool, const float*, const float*);
  template <int J, int R>
  static Blocks of(int64_t j, int64_t r) {
    if constexpr (J == 0 || R == 0)
      return nullptr;
    else
      return j == J ? (r == R ? short_blocks<Vec, J, R> : of<J, R - 1>(j, r)) : of<J - 1, R>(j, r);
  }

  // Block rows [b, stop), whose outputs are packed at once.
  static void some_rows(const LinearGradArgs& a, int64_t b, int64_t stop, int64_t row0, int64_t rows,
                        float* grad, const float* x) {
    const int64_t groups = (rows + W - 1) / W, lanes = groups * W;
    const int64_t first = b * a.v, wanted = (stop - b) * a.v;
    const int64_t stored = a.n - first < wanted ? a.n - first : wanted;  // the last block row may be ragged
    pack_lanes<Vec>(a.grad + row0 * a.grad_stride + first, a.grad_stride, rows, stored, groups, grad);
    for (int64_t i = stored * lanes; i < wanted * lanes; i += W) Vec::store(grad + i, Vec::zero());
    for (; b < stop; ++b)
      for (int64_t lane = 0; lane < a.v; lane += 4) {
        const int64_t outputs = a.v - lane < 4 ? a.v - lane : 4;
        of<4, kVectors>(outputs, groups)(a, b, lane, row0 > 0, grad + (b * a.v - first + lane) * lanes, x);
      }
  }

  static void run(const LinearGradArgs& a, int64_t begin, int64_t end, float* scratch) {
    const int64_t first = chunk_begin(a, begin), last = chunk_begin(a, end);
    const int64_t together = outputs_at_once(a) / a.v, vectors = (a.m + W - 1) / W;
    const int64_t tiles = tile_count(vectors, kVectors);
    float* x = scratch + 2 * W * kVectors * W;
    for (int64_t tile = 0; first < last && tile < tiles; ++tile) {
      const int64_t v0 = tile_begin(vectors, tiles, tile), v1 = tile_begin(vectors, tiles, tile + 1);
      const int64_t row0 = v0 * W, rows = (v1 * W < a.m ? v1 * W : a.m) - row0;
      pack_lanes<Vec>(a.x + row0 * a.x_stride, a.x_stride, rows, a.k, v1 - v0, x);
      for (int64_t b = first; b < last; b += together)
        some_rows(a, b, b + together < last ? b + together : last, row0, rows, scratch, x);
    }
  }
};

// By which of the two a block's values get their gradient.
template <class Vec>
struct GradValues {
  using Short = GradValuesShort<Vec>;
  using Tall = GradValuesBlocks<Vec>;
  static int64_t tiles(const LinearGradArgs&) { return 1; }
  static size_t scratch_floats(const LinearGradArgs& a) {
    return Short::takes(a) ? Short::scratch_floats(a) : Tall::scratch_floats(a);
  }
  static void run(const LinearGradArgs& a, int64_t begin, int64_t end, float* scratch) {
    Short::takes(a) ? Short::run(a, begin, end, scratch) : Tall::run(a, begin, end, scratch);
  }
  static constexpr LinearGradKernel kernel() { return {tiles, scratch_floats, run}; }
};
