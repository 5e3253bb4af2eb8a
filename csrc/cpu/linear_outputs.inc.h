// Included inside each ISA's region. Linear for blocks (v, 1): lanes are outputs.
//
// A nonzero block is v weights that share one input, so it loads as whole vectors and meets a broadcast of x;
// each loaded weight serves R rows of x at once. The R rows are packed to [k][R] first: R row pointers with
// the same offset would fight for one cache set whenever the row stride is a multiple of 4 KB.

// Blocks taller than two vectors are cut into segments of two; U sums over the nonzeros run side by side when
// R alone leaves too few independent chains to hide the FMA's latency (4 cycles at 2 a cycle: 8 chains).
template <class Vec, int NV, int R>
struct Chains {
  static constexpr int count = R * NV >= 8 ? 1 : (R * NV >= 4 ? 2 : (R * NV >= 2 ? 4 : 8));
};

struct Segment {
  const float* values;  // first lane of this segment in the block row's first nonzero block
  int64_t value_stride;
  const int32_t* col;
  int64_t count;        // nonzero blocks
  const float* packed;  // [k][R]
  const float* bias;    // of the first lane, or null
  float* y;             // of the first lane in the tile's first row
  int64_t y_stride;
  int64_t lanes;   // in the block: weights that may be loaded
  int64_t stored;  // outputs that exist
};

template <class Vec, int NV, int R, bool kWhole>
inline void segment(const Segment& s) {
  using T = typename Vec::T;
  constexpr int W = Vec::width, U = Chains<Vec, NV, R>::count;
  static_assert(kWhole || NV == 1, "a partial segment is one vector");
  const typename Vec::Mask load_mask = Vec::mask(s.lanes < W ? s.lanes : W);
  T acc[U][R][NV];
  for (int v = 0; v < NV; ++v) {
    const int64_t left = s.stored - v * W;
    const T start =
        s.bias && left > 0 ? Vec::load(s.bias + v * W, Vec::mask(left < W ? left : W)) : Vec::zero();
    for (int u = 0; u < U; ++u)
      for (int r = 0; r < R; ++r) acc[u][r][v] = u ? Vec::zero() : start;
  }
  int64_t j = 0;
  const float* weights = s.values;
  for (; j + U <= s.count; j += U) {
    SPARSEKERN_UNROLL
    for (int u = 0; u < U; ++u, weights += s.value_stride) {
      const float* x = s.packed + int64_t(s.col[j + u]) * R;
      T w[NV];
      for (int v = 0; v < NV; ++v) w[v] = kWhole ? Vec::load(weights + v * W) : Vec::load(weights, load_mask);
      SPARSEKERN_UNROLL
      for (int r = 0; r < R; ++r) {
        const T each = Vec::broadcast(x[r]);
        for (int v = 0; v < NV; ++v) acc[u][r][v] = Vec::fma(each, w[v], acc[u][r][v]);
      }
    }
  }
  for (; j < s.count; ++j, weights += s.value_stride) {
    const float* x = s.packed + int64_t(s.col[j]) * R;
    for (int v = 0; v < NV; ++v) {
      const T w = kWhole ? Vec::load(weights + v * W) : Vec::load(weights, load_mask);
      SPARSEKERN_UNROLL
      for (int r = 0; r < R; ++r) acc[0][r][v] = Vec::fma(Vec::broadcast(x[r]), w, acc[0][r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < NV; ++v) {
      T sum = acc[0][r][v];
      for (int u = 1; u < U; ++u) sum = Vec::add(sum, acc[u][r][v]);
      const int64_t left = s.stored - v * W;
      if (left >= W)
        Vec::store(s.y + r * s.y_stride + v * W, sum);
      else if (left > 0)
        Vec::store(s.y + r * s.y_stride + v * W, sum, Vec::mask(left));
    }
}

template <class Vec, int R>
void output_rows(const LinearArgs& a, int64_t row0, int64_t first, int64_t last, const float* packed) {
  constexpr int W = Vec::width;
  constexpr bool kPairs = R <= Vec::rows_of_pairs;
  const int32_t* col = R > 1 ? a.packed_col() : a.col;  // one row is read where it lies
  for (int64_t b = first; b < last; ++b) {
    const int64_t blocks = a.crow[b];
    Segment s{nullptr, a.v, col + blocks, a.crow[b + 1] - blocks, packed, nullptr, nullptr, a.n, 0, 0};
    for (int64_t lane = 0; lane < a.v;) {
      const int64_t output = b * a.v + lane;
      if (output >= a.n) break;
      s.values = a.values + blocks * a.v + lane;
      s.bias = a.bias ? a.bias + output : nullptr;
      s.y = a.y + row0 * a.n + output;
      s.lanes = a.v - lane;
      s.stored = a.n - output < s.lanes ? a.n - output : s.lanes;
      if (kPairs && s.lanes >= 2 * W) {
        segment<Vec, kPairs ? 2 : 1, R, true>(s);
        lane += 2 * W;
      } else if (s.lanes >= W) {
        segment<Vec, 1, R, true>(s);
        lane += W;
      } else {
        segment<Vec, 1, R, false>(s);
        lane += W;
      }
    }
  }
}

template <class Vec>
struct LinearOutputs {
  using Rows = void (*)(const LinearArgs&, int64_t, int64_t, int64_t, const float*);

  static bool takes(const LinearArgs&) { return true; }
  static int64_t most_rows(const LinearArgs& a) {
    return a.v >= 2 * Vec::width ? Vec::rows_of_pairs : Vec::rows;
  }
  static int64_t tiles(const LinearArgs& a) { return tile_count(a.m, most_rows(a)); }
  static size_t scratch_floats(const LinearArgs& a) {
    return size_t(a.packed_columns()) * Vec::rows + Vec::width;
  }

  template <int R>
  static Rows rows_of(int64_t r) {
    if constexpr (R == 0)
      return nullptr;
    else
      return r == R ? output_rows<Vec, R> : rows_of<R - 1>(r);
  }

  static void run(const LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
    const int64_t count = tiles(a);
    const auto cut = [&](int64_t chunk) { return chunk_begin(a, chunk); };
    for_each_tile(a, begin, end, cut, [&](int64_t tile, int64_t first, int64_t last) {
      const int64_t row0 = tile_begin(a.m, count, tile), rows = tile_begin(a.m, count, tile + 1) - row0;
      const float* x = a.x + row0 * a.x_stride;
      if (rows > 1) pack_group<Vec>(x, a.x_stride, rows, columns_of(a), rows, scratch);
      rows_of<Vec::rows>(rows)(a, row0, first, last, rows > 1 ? scratch : x);
      const int64_t n0 = first * a.v, n1 = last * a.v < a.n ? last * a.v : a.n;
      activate_rows<Vec>(a.y + row0 * a.n + n0, a.n, rows, n1 - n0, a.activation);
    });
  }

  static constexpr LinearKernel kernel() { return {"outputs", false, takes, tiles, scratch_floats, run}; }
};
