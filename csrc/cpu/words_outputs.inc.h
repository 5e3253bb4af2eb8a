// Included inside a region with AVX-512, behind Zmm and a Dot. Blocks of words: lanes are outputs.
//
// As linear_outputs.inc.h, a word at a time: a vector of a block meets a broadcast word of x, and serves R
// rows of x, which are packed to [word][R] first; of a convolution R lanes of planes. Dot is the instruction,
// with the type of its sums.

struct WordSegment {
  const uint32_t* values;  // first lane of this segment in the block row's first nonzero block
  int64_t value_stride;
  const int32_t* col;  // its columns, or what stands for them: they are `step` words of x apart
  int64_t count;       // nonzero blocks
  int64_t output;      // the first
};

// Some rows of y and what they see of x.
struct WordRows {
  const uint32_t* x;
  int64_t step;
  const int64_t* rows;  // of y; -1 is none
};

template <class Dot, int NV, int R>
inline void word_segment(const WordArgs& a, const WordSegment& s, const WordRows& seen) {
  constexpr int U = R * NV >= 8 ? 1 : (R * NV >= 4 ? 2 : (R * NV >= 2 ? 4 : 8));  // chains, as in Chains
  typename Dot::T acc[U][R][NV];
  Dot dot[NV];
  for (int u = 0; u < U; ++u)
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < NV; ++v) acc[u][r][v] = Dot::zero();
  const auto step = [&](int64_t j, __m512i exist, typename Dot::T(&sum)[R][NV]) {
    const uint32_t* x = seen.x + s.col[j] * seen.step;
    __m512i w[NV];
    for (int v = 0; v < NV; ++v) {
      w[v] = _mm512_and_si512(exist, _mm512_loadu_si512(s.values + j * s.value_stride + v * kWordOutputs));
      dot[v].see(w[v]);
    }
    SPARSEKERN_UNROLL
    for (int r = 0; r < R; ++r) {
      const __m512i each = _mm512_set1_epi32(int(x[r]));
      for (int v = 0; v < NV; ++v) sum[r][v] = Dot::dot(sum[r][v], each, w[v]);
    }
  };
  const __m512i all = _mm512_set1_epi32(-1);
  const int64_t whole = s.count - (a.last_word != ~uint32_t{0} && s.count > 0 &&
                                   s.col[s.count - 1] == a.words - 1);  // only a last block is ragged
  int64_t j = 0;
  for (; j + U <= whole; j += U) {
    SPARSEKERN_UNROLL
    for (int u = 0; u < U; ++u) step(j + u, all, acc[u]);
  }
  for (; j < whole; ++j) step(j, all, acc[0]);
  if (whole < s.count) step(whole, _mm512_set1_epi32(int(a.last_word)), acc[0]);
  for (int v = 0; v < NV; ++v) {
    const int64_t output = s.output + v * kWordOutputs;
    if (output >= a.n) break;
    for (int r = 0; r < R; ++r) {
      if (seen.rows[r] < 0) continue;
      typename Dot::T sum = acc[0][r][v];
      for (int u = 1; u < U; ++u) sum = Dot::add(sum, acc[u][r][v]);
      store_outputs<Dot>(a, seen.rows[r], output, dot[v].value(a, seen.rows[r], output, sum));
    }
  }
}

// Block rows [first, last); `col` as in WordSegment.
template <class Dot, int R>
void word_rows(const WordArgs& a, const int32_t* col, int64_t first, int64_t last, const WordRows& seen) {
  constexpr int kTogether = R <= Dot::rows_of_two ? 2 : 1;
  for (int64_t b = first; b < last; ++b) {
    const int64_t begin = a.crow[b], stop = (b + 1) * a.v < a.n ? (b + 1) * a.v : a.n;
    WordSegment s{nullptr, a.v, col + begin, a.crow[b + 1] - begin, b * a.v};
    while (s.output < stop) {
      s.values = a.values + begin * a.v + (s.output - b * a.v);
      if (kTogether == 2 && stop - s.output > kWordOutputs) {
        word_segment<Dot, kTogether, R>(a, s, seen);
        s.output += kTogether * kWordOutputs;
      } else {
        word_segment<Dot, 1, R>(a, s, seen);
        s.output += kWordOutputs;
      }
    }
  }
}

template <class Dot>
struct WordOutputs {
  using Rows = void (*)(const WordArgs&, const int32_t*, int64_t, int64_t, const WordRows&);
  static constexpr int64_t kRows = 16;

  static int64_t most_rows(const WordArgs& a) { return a.v > kWordOutputs ? Dot::rows_of_two : kRows; }

  static int64_t tiles(const WordArgs& a) {
    return a.map ? WordTiling(a, WordPlanes(a)).tiles() : tile_count(a.m, most_rows(a));
  }

  static size_t scratch_floats(const WordArgs& a) {
    if (!a.map) return size_t(a.words) * kRows + Zmm::width;
    const WordPlanes planes(a);
    return size_t(planes.count() * WordTiling(a, planes).length + a.crow[a.block_rows()]);
  }

  template <int R>
  static Rows rows_of(int64_t r) {
    if constexpr (R == 0)
      return nullptr;
    else
      return r == R ? word_rows<Dot, R> : rows_of<R - 1>(r);
  }

  static void run(const WordArgs& a, int64_t begin, int64_t end, float* scratch) {
    if (a.map) return convolve(a, begin, end, scratch);
    const int64_t count = tiles(a);
    const auto cut = [&](int64_t chunk) { return chunk_begin(a, chunk); };
    for_each_tile(a, begin, end, cut, [&](int64_t tile, int64_t first, int64_t last) {
      const int64_t row = tile_begin(a.m, count, tile), rows = tile_begin(a.m, count, tile + 1) - row;
      int64_t of_y[kRows];
      for (int64_t r = 0; r < rows; ++r) of_y[r] = row + r;
      WordRows seen{a.x + row * a.x_stride, 1, of_y};
      if (rows > 1) {
        pack_group<Zmm>(reinterpret_cast<const float*>(seen.x), a.x_stride, rows, a.words, rows, scratch);
        seen.x = reinterpret_cast<uint32_t*>(scratch), seen.step = rows;
      }
      rows_of<kRows>(rows)(a, a.col, first, last, seen);
    });
  }

  static void convolve(const WordArgs& a, int64_t begin, int64_t end, float* scratch) {
    const WordPlanes planes(a);
    const WordTiling tiling(a, planes);
    auto* places = reinterpret_cast<int32_t*>(scratch + planes.count() * tiling.length);
    planes.places(a.col, a.crow[a.block_rows()], tiling.length, places);
    const auto cut = [&](int64_t chunk) { return chunk_begin(a, chunk); };
    for_each_tile(a, begin, end, cut, [&](int64_t tile, int64_t first, int64_t last) {
      const int64_t from = tiling.first_lane(tile), lanes = tiling.first_lane(tile + 1) - from;
      pack_planes(planes, from, from + lanes + planes.reach, from, tiling.length, scratch);
      const int64_t parts = tile_count(lanes, most_rows(a));
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t lane = tile_begin(lanes, parts, part), stop = tile_begin(lanes, parts, part + 1);
        int64_t of_y[kRows];
        planes.outputs(from + lane, stop - lane, of_y);
        rows_of<kRows>(stop - lane)(a, places, first, last,
                                    {reinterpret_cast<uint32_t*>(scratch) + lane, 1, of_y});
      }
    });
  }
};
