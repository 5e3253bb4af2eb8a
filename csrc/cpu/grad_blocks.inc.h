// Included inside each ISA's region. The gradients of Linear for blocks (v, 1) that no panel index serves.
//
// Input: lanes are rows of the batch. The gradients of J outputs stay in registers; a nonzero block adds what
// they and its J weights make to one column of a tile in L2, R loads, J broadcasts and R stores for R * J
// FMAs. Values: lanes are outputs. Q blocks of one block row are summed at a time, over the rows of the
// batch: one load and Q broadcasts for Q FMAs, and no sums over lanes.

template <class Vec, int J, int R>
void input_blocks(const LinearGradArgs& a, int64_t block_row, int64_t lane, const float* grad, float* tile) {
  using T = typename Vec::T;
  constexpr int W = Vec::width;
  T up[J][R];
  for (int i = 0; i < J; ++i)
    for (int r = 0; r < R; ++r) up[i][r] = Vec::load(grad + ((lane + i) * R + r) * W);
  for (int64_t j = a.crow[block_row]; j < a.crow[block_row + 1]; ++j) {
    const float* w = a.values + j * a.v + lane;
    float* sums = tile + int64_t(a.col[j]) * (sums_step(R) * W);
    T acc[R];
    SPARSEKERN_UNROLL
    for (int r = 0; r < R; ++r) acc[r] = Vec::load(sums + r * W);
    SPARSEKERN_UNROLL
    for (int i = 0; i < J; ++i) {
      const T each = Vec::broadcast(w[i]);
      SPARSEKERN_UNROLL
      for (int r = 0; r < R; ++r) acc[r] = Vec::fma(each, up[i][r], acc[r]);
    }
    SPARSEKERN_UNROLL
    for (int r = 0; r < R; ++r) Vec::store(sums + r * W, acc[r]);
  }
}

template <class Vec>
struct GradInputBlocks {
  static constexpr int kOutputs = Vec::outputs_at_once;
  static constexpr int64_t kTileFloats = 256 * 1024;  // 1 MB, an L2 of today

  using Blocks = void (*)(const LinearGradArgs&, int64_t, int64_t, const float*, float*);
  static constexpr int most = RowVectors<Vec, kOutputs>::most;
  template <int J, int R>
  static Blocks of(int64_t j, int64_t r) {
    if constexpr (J == 0 || R == 0)
      return nullptr;
    else
      return j == J ? (r == R ? input_blocks<Vec, J, R> : of<J, R - 1>(j, r)) : of<J - 1, R>(j, r);
  }

  static int64_t vectors(const LinearGradArgs& a) { return (a.m + Vec::width - 1) / Vec::width; }
  static int64_t most_vectors(const LinearGradArgs& a) {
    const int64_t cached = kTileFloats / Vec::width / (a.k > 0 ? a.k : 1);
    return cached < 1 ? 1 : (cached < most ? cached : most);
  }
  static int64_t tiles(const LinearGradArgs& a) { return tile_count(vectors(a), most_vectors(a)); }
  static size_t scratch_floats(const LinearGradArgs& a) {
    const int64_t grad = (a.v + Vec::width) * most_vectors(a);
    return size_t((grad + (a.k + Vec::width) * sums_step(most_vectors(a))) * Vec::width);
  }

  static void run(const LinearGradArgs& a, int64_t begin, int64_t end, float* scratch) {
    const int64_t count = tiles(a);
    // All columns of a tile go together, so a tile is not cut.
    const auto whole = [&](int64_t chunk) { return int64_t(chunk > 0); };
    for_each_tile(a, begin, end, whole, [&](int64_t tile, int64_t, int64_t) {
      const int64_t v0 = tile_begin(vectors(a), count, tile), v1 = tile_begin(vectors(a), count, tile + 1);
      const int64_t row0 = v0 * Vec::width, row1 = v1 * Vec::width < a.m ? v1 * Vec::width : a.m;
      one_tile(a, row0, row1 - row0, v1 - v0, scratch);
    });
  }

  static void one_tile(const LinearGradArgs& a, int64_t row0, int64_t rows, int64_t groups, float* scratch) {
    const int64_t step = sums_step(groups) * Vec::width;
    float* sums = scratch + (a.v + Vec::width) * groups * Vec::width;
    for (int64_t i = 0; i < a.k * step; i += Vec::width) Vec::store(sums + i, Vec::zero());
    for (int64_t b = 0; b * a.v < a.n; ++b) {
      const int64_t outputs = a.n - b * a.v < a.v ? a.n - b * a.v : a.v;  // the last block row may be ragged
      if (a.crow[b] == a.crow[b + 1]) continue;
      pack_lanes<Vec>(a.grad + row0 * a.grad_stride + b * a.v, a.grad_stride, rows, outputs, groups, scratch);
      for (int64_t lane = 0; lane < outputs; lane += kOutputs) {
        const int64_t height = outputs - lane < kOutputs ? outputs - lane : kOutputs;
        of<kOutputs, most>(height, groups)(a, b, lane, scratch, sums);
      }
    }
    unpack_lanes<Vec>(sums, step, rows, a.k, a.out + row0 * a.k, a.k);
  }

  static constexpr LinearGradKernel kernel() { return {tiles, scratch_floats, run}; }
};

template <class Vec>
struct GradValuesBlocks {
  static constexpr int kBlocks = 8;   // sums at a time: as many chains as hide the FMA's latency
  static constexpr int kVectors = 4;  // vectors of rows whose inputs are packed at a time

  static int64_t rows_at_once() { return kVectors * Vec::width; }
  static size_t scratch_floats(const LinearGradArgs& a) {
    return size_t((a.k + 2 * Vec::width) * rows_at_once());
  }

  // Q blocks from block j on: out[j + q][lane ..] += sum over rows of x[row][col[j + q]] * grad[row][lane
  // ..].
  template <int Q>
  static void some_blocks(const LinearGradArgs& a, int64_t j, int64_t lane, int64_t rows, bool add,
                          const float* grad, const float* x) {
    const typename Vec::Mask mask = Vec::mask(a.v - lane < Vec::width ? a.v - lane : Vec::width);
    typename Vec::T acc[Q];
    const float* column[Q];
    for (int q = 0; q < Q; ++q) {
      acc[q] = add ? Vec::load(a.out + (j + q) * a.v + lane, mask) : Vec::zero();
      column[q] = x + int64_t(a.col[j + q]) * rows_at_once();
    }
    for (int64_t row = 0; row < rows; ++row) {
      const typename Vec::T up = Vec::load(grad + row * Vec::width);
      SPARSEKERN_UNROLL
      for (int q = 0; q < Q; ++q) acc[q] = Vec::fma(Vec::broadcast(column[q][row]), up, acc[q]);
    }
    for (int q = 0; q < Q; ++q) Vec::store(a.out + (j + q) * a.v + lane, acc[q], mask);
  }

  static void one_block_row(const LinearGradArgs& a, int64_t b, int64_t row0, int64_t rows, float* grad,
                            const float* x) {
    for (int64_t lane = 0; lane < a.v; lane += Vec::width) {
      const int64_t output = b * a.v + lane, stored = a.n - output < a.v - lane ? a.n - output : a.v - lane;
      const typename Vec::Mask mask = Vec::mask(stored < 0 ? 0 : (stored < Vec::width ? stored : Vec::width));
      for (int64_t row = 0; row < rows; ++row)  // rows of grad may be 4 KB apart, in one set of L1
        Vec::store(grad + row * Vec::width, Vec::load(a.grad + (row0 + row) * a.grad_stride + output, mask));
      int64_t j = a.crow[b];
      for (; j + kBlocks <= a.crow[b + 1]; j += kBlocks)
        some_blocks<kBlocks>(a, j, lane, rows, row0 > 0, grad, x);
      for (; j < a.crow[b + 1]; ++j) some_blocks<1>(a, j, lane, rows, row0 > 0, grad, x);
    }
  }

  static void run(const LinearGradArgs& a, int64_t begin, int64_t end, float* scratch) {
    const int64_t first = chunk_begin(a, begin), last = chunk_begin(a, end);
    for (int64_t row0 = 0; first < last && row0 < a.m; row0 += rows_at_once()) {
      const int64_t rows = a.m - row0 < rows_at_once() ? a.m - row0 : rows_at_once();
      float* x = scratch + rows_at_once() * Vec::width;
      pack_lanes<Vec>(a.x + row0 * a.x_stride, a.x_stride, rows, a.k, kVectors, x);
      for (int64_t b = first; b < last; ++b) one_block_row(a, b, row0, rows, scratch, x);
    }
  }
};
