// Included inside each ISA's region. Linear for single weights: lanes are rows of x.
//
// A nonzero weight is broadcast and meets R vectors of packed x (R * width rows of the batch). What limits it
// are loads: (R + 2) / R per FMA, so R is large, and the packed columns must come from L1: x is packed a
// panel of columns at a time, and `panels` tells where each row's nonzeros enter each panel. Weights and
// columns are read where the format holds them, since a row's nonzeros of neighbouring panels lie side by
// side; with few rows of x, panels are joined.
//
// panels[p][b] = index of the first nonzero block of block row b whose column is >= p * kPanelColumns, for
// p = 0 .. ceil(k / kPanelColumns); the last row of the table equals crow[b + 1]. Blocks (v, 1) are v rows
// that share their columns: row r reads values[j * v + r % v].

constexpr int64_t kPanelFloats = 12 * 1024;  // 48 KB, an L1 of today
constexpr int64_t kSumFloats = 64 * 1024;    // 256 KB of partial sums wait in L2 while the panels go by

template <class Vec, int R>
inline void gather_run(const LinearArgs& a, const float* values, int64_t begin, int64_t end, int64_t k0,
                       const float* panel, typename Vec::T (&acc)[R]) {
  using T = typename Vec::T;
  constexpr int W = Vec::width, U = R >= 8 ? 1 : (R >= 2 ? 2 : 4);  // see Chains in linear_vector.inc.h
  T more[U][R];
  for (int u = 1; u < U; ++u)
    for (int r = 0; r < R; ++r) more[u][r] = Vec::zero();
  int64_t j = begin;
  for (; j + U <= end; j += U) {
    SPARSEKERN_UNROLL
    for (int u = 0; u < U; ++u) {
      const T w = Vec::broadcast(values[(j + u) * a.v]);
      const float* x = panel + (a.col[j + u] - k0) * (R * W);
      SPARSEKERN_UNROLL
      for (int r = 0; r < R; ++r) {
        T& sum = u ? more[u][r] : acc[r];
        sum = Vec::fma(w, Vec::load(x + r * W), sum);
      }
    }
  }
  for (; j < end; ++j) {
    const T w = Vec::broadcast(values[j * a.v]);
    const float* x = panel + (a.col[j] - k0) * (R * W);
    SPARSEKERN_UNROLL
    for (int r = 0; r < R; ++r) acc[r] = Vec::fma(w, Vec::load(x + r * W), acc[r]);
  }
  for (int u = 1; u < U; ++u)
    for (int r = 0; r < R; ++r) acc[r] = Vec::add(acc[r], more[u][r]);
}

template <class Vec, int R>
void unstructured_rows(const LinearArgs& a, int64_t row0, int64_t rows, int64_t first, int64_t last,
                       float* scratch) {
  using T = typename Vec::T;
  constexpr int W = Vec::width;
  constexpr int64_t lanes = R * W;
  const int64_t depth = kPanelFloats / lanes / kPanelColumns * kPanelColumns;
  const int64_t block_rows = a.block_rows();
  const int64_t n0 = first * a.v, n1 = last * a.v < a.n ? last * a.v : a.n;
  float* panel = scratch;
  float* sums = scratch + depth * lanes;  // [n1 - n0][lanes]
  for (int64_t k0 = 0; k0 == 0 || k0 < a.k; k0 += depth) {
    const int64_t columns = a.k - k0 < depth ? a.k - k0 : depth;
    pack_lanes<Vec>(a.x + row0 * a.x_stride + k0, a.x_stride, rows, columns, R, panel);
    const int32_t* begins = a.panels + k0 / kPanelColumns * block_rows;
    const int32_t* ends = a.panels + (k0 + columns + kPanelColumns - 1) / kPanelColumns * block_rows;
    for (int64_t n = n0, b = first, lane = 0; n < n1; ++n) {
      T acc[R];
      float* sum = sums + (n - n0) * lanes;
      for (int r = 0; r < R; ++r)
        acc[r] = k0 ? Vec::load(sum + r * W) : (a.bias ? Vec::broadcast(a.bias[n]) : Vec::zero());
      gather_run<Vec, R>(a, a.values + lane, begins[b], ends[b], k0, panel, acc);
      for (int r = 0; r < R; ++r) Vec::store(sum + r * W, acc[r]);
      if (++lane == a.v) lane = 0, ++b;
    }
  }
  unpack_lanes<Vec>(sums, lanes, rows, n1 - n0, a.y + row0 * a.n + n0, a.n);
}

// Too few rows of x to fill the lanes: each output is a dot product, lanes are nonzeros, x is gathered.
template <class Vec>
void unstructured_dots(const LinearArgs& a, int64_t row0, int64_t rows, int64_t first, int64_t last) {
  constexpr int W = Vec::width;
  for (int64_t n = first; n < last; ++n) {
    const int64_t begin = a.crow[n], end = a.crow[n + 1];
    for (int64_t m = row0; m < row0 + rows; ++m) {
      const float* x = a.x + m * a.x_stride;
      typename Vec::T sum = Vec::zero(), other = Vec::zero();
      int64_t j = begin;
      for (; j + 2 * W <= end; j += 2 * W) {
        sum = Vec::fma(Vec::load(a.values + j), Vec::gather(x, a.col + j), sum);
        other = Vec::fma(Vec::load(a.values + j + W), Vec::gather(x, a.col + j + W), other);
      }
      for (; j < end; j += W) {
        const typename Vec::Mask mask = Vec::mask(end - j < W ? end - j : W);
        sum = Vec::fma(Vec::load(a.values + j, mask), Vec::gather(x, a.col + j, mask), sum);
      }
      a.y[m * a.n + n] = Vec::reduce(Vec::add(sum, other)) + (a.bias ? a.bias[n] : 0.0f);
    }
  }
}

template <class Vec>
struct UnstructuredLinear {
  using Rows = void (*)(const LinearArgs&, int64_t, int64_t, int64_t, int64_t, float*);
  static constexpr int64_t kDotRows = 4;  // fewer than a third of 16 lanes would work

  static bool dots(const LinearArgs& a) { return a.m <= kDotRows && a.v == 1; }
  // Tiles are whole vectors of rows, but for the last.
  static int64_t vectors(const LinearArgs& a) { return (a.m + Vec::width - 1) / Vec::width; }
  static int64_t tiles(const LinearArgs& a) {
    return dots(a) ? 1 : tile_count(vectors(a), Vec::batch_vectors);
  }
  static size_t scratch_floats(const LinearArgs& a) {
    return dots(a)
               ? 0
               : size_t(kPanelFloats) + size_t(pass_block_rows(a) * a.v) * Vec::batch_vectors * Vec::width;
  }
  // Block rows whose sums fit in kSumFloats: a tile takes as many passes as it needs, each packs the panels
  // anew.
  static int64_t pass_block_rows(const LinearArgs& a) {
    const int64_t rows = kSumFloats / (Vec::batch_vectors * Vec::width * a.v);
    return rows < 1 ? 1 : rows;
  }

  template <int R>
  static Rows rows_of(int64_t r) {
    if constexpr (R == 0)
      return nullptr;
    else
      return r == R ? unstructured_rows<Vec, R> : rows_of<R - 1>(r);
  }

  static void run(const LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
    const int64_t count = tiles(a);
    for_each_tile(a, begin, end, [&](int64_t tile, int64_t first, int64_t last) {
      if (dots(a)) return unstructured_dots<Vec>(a, 0, a.m, first, last);
      const int64_t v0 = tile_begin(vectors(a), count, tile), v1 = tile_begin(vectors(a), count, tile + 1);
      const int64_t row0 = v0 * Vec::width, row1 = v1 * Vec::width < a.m ? v1 * Vec::width : a.m;
      const Rows rows = rows_of<Vec::batch_vectors>(v1 - v0);
      for (int64_t from = first; from < last; from += pass_block_rows(a)) {
        const int64_t to = from + pass_block_rows(a) < last ? from + pass_block_rows(a) : last;
        rows(a, row0, row1 - row0, from, to, scratch);
      }
    });
  }

  static constexpr LinearKernel kernel() { return {tiles, scratch_floats, run}; }
};
