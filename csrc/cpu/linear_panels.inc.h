// Included inside each ISA's region. Linear for single weights and short blocks, many rows of x: lanes are
// rows of x.
//
// A nonzero weight is broadcast and meets R vectors of packed x. What limits it are loads, R + 2 for R FMAs,
// all from L1: the columns of x come in panels that stay there, and weights and offsets lie in the order in
// which they are read (panel_index.h). Partial sums wait in L2 while the panels go by.

constexpr int64_t kLongRun = 16;

// `place` says where the vectors of x of the run's j-th block are.
template <class Vec, int J, int R, class Place>
SPARSEKERN_INLINE void panel_run(Place place, const float* weights, int64_t length, float* sums) {
  using T = typename Vec::T;
  constexpr int W = Vec::width;
  T acc[J][R];
  for (int i = 0; i < J; ++i)
    for (int r = 0; r < R; ++r) acc[i][r] = Vec::load(sums + (i * R + r) * W);
  const auto step = [&](int64_t j, T(&sum)[J][R]) {
    const float* x = in_one_register(place(j));
    SPARSEKERN_UNROLL
    for (int i = 0; i < J; ++i) {
      const T w = Vec::broadcast(weights[j * J + i]);
      SPARSEKERN_UNROLL
      for (int r = 0; r < R; ++r) sum[i][r] = Vec::fma(w, Vec::load(x + r * W), sum[i][r]);
    }
  };
  int64_t j = 0;
  if (J * R < 8 &&
      length >= kLongRun) {  // two sums side by side hide the FMA's latency, and cost their joining
    T more[J][R];
    for (int i = 0; i < J; ++i)
      for (int r = 0; r < R; ++r) more[i][r] = Vec::zero();
    for (; j + 2 <= length; j += 2) {
      step(j, acc);
      step(j + 1, more);
    }
    for (int i = 0; i < J; ++i)
      for (int r = 0; r < R; ++r) acc[i][r] = Vec::add(acc[i][r], more[i][r]);
  }
  for (; j < length; ++j) step(j, acc);
  for (int i = 0; i < J; ++i)
    for (int r = 0; r < R; ++r) Vec::store(sums + (i * R + r) * W, acc[i][r]);
}

template <class Vec, int J, int R>
void panel_rows(const LinearArgs& a, int64_t row0, int64_t rows, int64_t row_block, const float* tile,
                float* sums) {
  constexpr int64_t lanes = R * Vec::width;
  const PanelIndex index{const_cast<int32_t*>(a.panels)};
  const int64_t panels = index.panels(), n0 = row_block * kPanelRows * J;
  const int64_t n1 = n0 + kPanelRows * J < a.n ? n0 + kPanelRows * J : a.n;
  float* y = a.y + row0 * a.n + n0;
  for (int64_t i = 0; i < kPanelRows * J && n0 + i < a.n + J; ++i)
    for (int64_t lane = 0; lane < lanes; lane += Vec::width)
      Vec::store(sums + i * lanes + lane, Vec::broadcast(a.bias && n0 + i < a.n ? a.bias[n0 + i] : 0.0f));
  const PanelRun* runs = index.runs();
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t cell = row_block * panels + panel;
    const uint8_t* offsets = index.offsets() + index.first_block()[cell];
    const float* weights = index.values() + int64_t(index.first_block()[cell]) * J;
    const float* x = tile + panel * kPanelColumns * lanes;
    prefetch_rows(y, a.n, rows * panel / panels, rows * (panel + 1) / panels, n1 - n0);
    for (int64_t i = index.first_run()[cell]; i < index.first_run()[cell + 1]; ++i) {
      const int64_t length = runs[i].length;
      panel_run<Vec, J, R>([=](int64_t j) { return x + offsets[j] * lanes; }, weights, length,
                           sums + runs[i].row * (J * lanes));
      offsets += length;
      weights += length * J;
    }
  }
  unpack_lanes<Vec>(sums, lanes, rows, n1 - n0, y, a.n);
  activate_rows<Vec>(y, a.n, rows, n1 - n0, a.activation);
}

template <class Vec>
struct LinearPanels {
  static constexpr int kVectors = 4;

  static bool takes(const LinearArgs& a) { return a.panels && a.v <= kPanelHeight; }
  static int64_t vectors(const LinearArgs& a) { return (a.m + Vec::width - 1) / Vec::width; }
  static int64_t tiles(const LinearArgs& a) { return tile_count(vectors(a), kVectors); }
  static int64_t sum_floats(const LinearArgs& a) { return (kPanelRows + 1) * a.v * kVectors * Vec::width; }
  static size_t scratch_floats(const LinearArgs& a) {
    return size_t(sum_floats(a) + (a.packed_columns() + Vec::width) * kVectors * Vec::width);
  }

  using Rows = void (*)(const LinearArgs&, int64_t, int64_t, int64_t, const float*, float*);
  template <int J, int R>
  static Rows rows_of(int64_t v, int64_t r) {
    if constexpr (R == 0)
      return nullptr;
    else if constexpr (J == 1)
      return r == R ? panel_rows<Vec, J, R> : rows_of<J, R - 1>(v, r);
    else
      return v == J ? (r == R ? panel_rows<Vec, J, R> : rows_of<J, R - 1>(v, r)) : rows_of<J - 1, R>(v, r);
  }

  static void run(const LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
    const int64_t count = tiles(a), row_blocks = PanelIndex{const_cast<int32_t*>(a.panels)}.row_blocks();
    const auto cut = [&](int64_t chunk) { return row_blocks * chunk / a.chunks; };
    for_each_tile(a, begin, end, cut, [&](int64_t tile, int64_t first, int64_t last) {
      const int64_t v0 = tile_begin(vectors(a), count, tile), v1 = tile_begin(vectors(a), count, tile + 1);
      const int64_t row0 = v0 * Vec::width, row1 = v1 * Vec::width < a.m ? v1 * Vec::width : a.m;
      float* packed = scratch + sum_floats(a);
      pack_lanes<Vec>(a.x + row0 * a.x_stride, a.x_stride, row1 - row0, columns_of(a), v1 - v0, packed);
      const Rows rows = rows_of<kPanelHeight, kVectors>(a.v, v1 - v0);
      for (int64_t row_block = first; row_block < last; ++row_block)
        rows(a, row0, row1 - row0, row_block, packed, scratch);
    });
  }

  static constexpr LinearKernel kernel() { return {"panels", true, takes, tiles, scratch_floats, run}; }
};
