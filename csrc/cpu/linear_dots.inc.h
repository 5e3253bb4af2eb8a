// Included inside each ISA's region. Linear for single weights, few rows of x: lanes are nonzeros.
//
// Too few rows of x to fill lanes with, so each output is a dot product, and x is gathered.

template <class Vec>
struct LinearDots {
  static constexpr int64_t kAhead = 1024;  // nonzeros

  static bool takes(const LinearArgs& a) { return a.v == 1; }
  static int64_t tiles(const LinearArgs&) { return 1; }
  static size_t scratch_floats(const LinearArgs&) { return 0; }

  template <class Column>
  static float dot(const LinearArgs& a, const Column* col, const float* x, int64_t begin, int64_t end) {
    constexpr int W = Vec::width;
    typename Vec::T sum = Vec::zero(), other = Vec::zero();
    int64_t j = begin;
    for (; j + 2 * W <= end; j += 2 * W) {
      // Gathers fill the core's window long before it has asked for enough lines.
      for (int ahead = 0; ahead < 2 * W; ahead += 16) __builtin_prefetch(a.values + j + kAhead + ahead);
      __builtin_prefetch(col + j + kAhead);
      sum = Vec::fma(Vec::load(a.values + j), Vec::gather(x, col + j), sum);
      other = Vec::fma(Vec::load(a.values + j + W), Vec::gather(x, col + j + W), other);
    }
    for (; j < end; j += W) {
      const typename Vec::Mask mask = Vec::mask(end - j < W ? end - j : W);
      sum = Vec::fma(Vec::load(a.values + j, mask), Vec::gather(x, col + j, mask), sum);
    }
    return Vec::reduce(Vec::add(sum, other));
  }

  template <class Column>
  static void rows(const LinearArgs& a, const Column* col, int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n)
      for (int64_t m = 0; m < a.m; ++m)
        a.y[m * a.n + n] =
            dot(a, col, a.x + m * a.x_stride, a.crow[n], a.crow[n + 1]) + (a.bias ? a.bias[n] : 0.0f);
  }

  static void run(const LinearArgs& a, int64_t begin, int64_t end, float*) {
    const auto cut = [&](int64_t chunk) { return chunk_begin(a, chunk); };
    for_each_tile(a, begin, end, cut, [&](int64_t, int64_t first, int64_t last) {
      const uint16_t* columns =
          a.panels ? PanelIndex{const_cast<int32_t*>(a.panels)}.columns() : nullptr;  // half the bytes
      columns ? rows(a, columns, first, last) : rows(a, a.col, first, last);
      activate_rows<Vec>(a.y + first, a.n, a.m, last - first, a.activation);
    });
  }

  static constexpr LinearKernel kernel() { return {"dots", false, takes, tiles, scratch_floats, run}; }
};
