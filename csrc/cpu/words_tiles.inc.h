// Included inside a region with AMX and AVX512_BF16, behind Zmm and a Dot. Blocks of words on tiles.
//
// One instruction adds the product of 16 outputs x 16 words of weights and 16 words x 16 rows of x. The words
// are those of 16 nonzero blocks of a block row: their weights are transposed once for all rows of x, and
// those of x, packed to [word][rows], are copied to lie side by side, half a step ahead of the tile loads,
// which cannot read what a store has not yet brought to L1. Tile registers: 0-3 sums, 4-5 weights, 6-7 x.

constexpr int64_t kTileWords = 256;  // 16 x 16 words, 1 KB
constexpr int64_t kTileSide = 16;
constexpr int64_t kTilesOfSums = 4;

struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// GCC's tile instructions do not say which memory they touch.
inline void order_memory() { __asm__ volatile("" ::: "memory"); }

// Tile registers are named by literals.
#define SPARSEKERN_TILE_DOT(sums, weights, x) \
  do {                                        \
    if constexpr (Dot::pairs)                 \
      _tile_dpbf16ps(sums, weights, x);       \
    else                                      \
      _tile_dpbssd(sums, weights, x);         \
  } while (false)

// What a pass over one block row works on: P parts of 16 outputs, T vectors of 16 rows of x.
struct TilePass {
  const int32_t* col;
  int64_t count;            // nonzero blocks
  const float* x;           // packed, from the first of the vectors on
  int64_t lanes;            // of packed x: words from one column to the next
  const float* weights[2];  // of each part: transposed tiles
  float* gathered;          // two times T tiles
  float* sums;              // kTilesOfSums tiles
};

template <int T>
inline void gather_tiles(const TilePass& p, int64_t group, float* to) {
  const int64_t first = group * kTileSide, left = p.count - first;
  const int64_t some = left < kTileSide ? left : kTileSide;
  for (int64_t i = 0; i < some; ++i) {
    const float* from = p.x + int64_t(p.col[first + i]) * p.lanes;
    SPARSEKERN_UNROLL
    for (int t = 0; t < T; ++t)
      Zmm::store(to + t * kTileWords + i * kTileSide, Zmm::load(from + t * kTileSide));
  }
  for (int64_t i = some; i < kTileSide; ++i)
    for (int t = 0; t < T; ++t) Zmm::store(to + t * kTileWords + i * kTileSide, Zmm::zero());
  order_memory();
}

template <class Dot, int P, int T>
inline void multiply_tiles(const TilePass& p, int64_t group, const float* x) {
  static_assert(P * T <= kTilesOfSums, "sums have four tile registers");
  constexpr int64_t kStride = kTileSide * sizeof(float);
  _tile_loadd(4, p.weights[0] + group * kTileWords, kStride);
  _tile_loadd(6, x, kStride);
  SPARSEKERN_TILE_DOT(0, 4, 6);
  if constexpr (P == 2) {
    _tile_loadd(5, p.weights[1] + group * kTileWords, kStride);
    SPARSEKERN_TILE_DOT(2, 5, 6);
  }
  if constexpr (T > 1) {
    _tile_loadd(7, x + kTileWords, kStride);
    SPARSEKERN_TILE_DOT(1, 4, 7);
    if constexpr (P == 2) SPARSEKERN_TILE_DOT(3, 5, 7);
  }
  if constexpr (T > 2) {
    _tile_loadd(6, x + 2 * kTileWords, kStride);
    SPARSEKERN_TILE_DOT(2, 4, 6);
  }
  if constexpr (T > 3) {
    _tile_loadd(7, x + 3 * kTileWords, kStride);
    SPARSEKERN_TILE_DOT(3, 4, 7);
  }
  order_memory();
}

#undef SPARSEKERN_TILE_DOT

// Leaves the sums of part p and vector t of rows in tile 2 p + t, each [output][row].
template <class Dot, int P, int T>
void tile_pass(const TilePass& p) {
  constexpr int64_t kStride = kTileSide * sizeof(float), kStep = T * kTileWords;
  const int64_t groups = (p.count + kTileSide - 1) / kTileSide;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (groups > 0) gather_tiles<T>(p, 0, p.gathered);
  for (int64_t group = 0; group < groups; ++group) {
    if (group + 1 < groups) gather_tiles<T>(p, group + 1, p.gathered + (group + 1) % 2 * kStep);
    multiply_tiles<Dot, P, T>(p, group, p.gathered + group % 2 * kStep);
  }
  _tile_stored(0, p.sums, kStride);
  if constexpr (T > 1) _tile_stored(1, p.sums + kTileWords, kStride);
  if constexpr (T > 2 || P == 2) _tile_stored(2, p.sums + 2 * kTileWords, kStride);
  if constexpr (T > 3 || (P == 2 && T == 2)) _tile_stored(3, p.sums + 3 * kTileWords, kStride);
  order_memory();
}

// The weights of 16 outputs of a block row: for every 16 nonzero blocks a tile [output][block].
inline void transpose_weights(const WordArgs& a, int64_t b, int64_t part, float* to) {
  const auto* from = reinterpret_cast<const float*>(a.values) + part * kTileSide;
  const __m512 exist = _mm512_castsi512_ps(_mm512_set1_epi32(int(a.last_word)));
  for (int64_t begin = a.crow[b]; begin < a.crow[b + 1]; begin += kTileSide, to += kTileWords) {
    __m512 block[kTileSide];
    for (int64_t i = 0; i < kTileSide; ++i) {
      const int64_t j = begin + i;
      block[i] = j < a.crow[b + 1] ? Zmm::load(from + j * a.v) : Zmm::zero();
      if (j < a.crow[b + 1] && a.col[j] == a.words - 1) block[i] = _mm512_and_ps(block[i], exist);
    }
    Zmm::transpose(block);
    for (int64_t i = 0; i < kTileSide; ++i) Zmm::store(to + i * kTileSide, block[i]);
  }
  order_memory();
}

// y[row + r][output + i] from sums[i][r].
template <class Dot>
void finish_tile(const WordArgs& a, const float* sums, int64_t row, int64_t rows, int64_t output) {
  const int64_t stored = a.n - output < kTileSide ? a.n - output : kTileSide;
  __m512 block[kTileSide];
  for (int64_t i = 0; i < kTileSide; ++i) {
    const int64_t of = output + (i < stored ? i : 0);
    block[i] = activated(Dot::value_of_rows(a, row, rows, of, sums + i * kTileSide), a.activation);
  }
  const Zmm::Mask mask = Zmm::mask(stored);
  if (a.dtype == Dtype::kFloat32) {
    Zmm::transpose(block);
    for (int64_t r = 0; r < rows; ++r)
      Zmm::store(static_cast<float*>(a.y) + (row + r) * a.n + output, block[r], mask);
    return;
  }
  __m256i narrow[kTileSide];
  transpose_to_bfloat16(block, narrow);
  for (int64_t r = 0; r < rows; ++r)
    _mm256_mask_storeu_epi16(static_cast<uint16_t*>(a.y) + (row + r) * a.n + output, mask, narrow[r]);
}

template <class Dot>
struct WordTiles {
  static constexpr int64_t kPackedFloats = 256 * 1024;  // 1 MB, an L2 of today
  using Pass = void (*)(const TilePass&);

  static int64_t vectors(const WordArgs& a) { return (a.m + kTileSide - 1) / kTileSide; }
  static int64_t most_vectors(const WordArgs& a) {
    const int64_t cached = kPackedFloats / kTileSide / (a.words > 0 ? a.words : 1);
    return cached < 1 ? 1 : (cached < 8 ? cached : 8);
  }
  static int64_t tiles(const WordArgs& a) { return tile_count(vectors(a), most_vectors(a)); }
  static int64_t weight_floats(const WordArgs& a) { return (a.words + kTileSide) * kTileSide; }
  static constexpr int64_t kOtherFloats = 3 * kTilesOfSums * kTileWords;  // sums, gathered
  static size_t scratch_floats(const WordArgs& a) {
    return size_t(kOtherFloats + 2 * weight_floats(a) + (a.words + kTileSide) * most_vectors(a) * kTileSide);
  }

  static void run(const WordArgs& a, int64_t begin, int64_t end, float* scratch) {
    alignas(64) const TileConfig config;
    _tile_loadconfig(&config);
    const int64_t count = tiles(a);
    const auto cut = [&](int64_t chunk) { return chunk_begin(a, chunk); };
    for_each_tile(a, begin, end, cut, [&](int64_t tile, int64_t first, int64_t last) {
      const int64_t v0 = tile_begin(vectors(a), count, tile), v1 = tile_begin(vectors(a), count, tile + 1);
      const int64_t row = v0 * kTileSide, stop = v1 * kTileSide < a.m ? v1 * kTileSide : a.m;
      float* packed = scratch + kOtherFloats + 2 * weight_floats(a);
      for (int64_t v = 0; v < v1 - v0; ++v)
        pack_words(a, row + v * kTileSide, stop - row - v * kTileSide, (v1 - v0) * kTileSide,
                   packed + v * kTileSide);
      for (int64_t b = first; b < last; ++b) block_row(a, b, row, stop, packed, scratch);
    });
    _tile_release();
  }

  static void block_row(const WordArgs& a, int64_t b, int64_t row, int64_t stop, const float* packed,
                        float* scratch) {
    const int64_t vectors = (stop - row + kTileSide - 1) / kTileSide;
    const int64_t outputs = a.n - b * a.v < a.v ? a.n - b * a.v : a.v;  // the last block row may be ragged
    const int64_t parts = (outputs + kTileSide - 1) / kTileSide;
    float *gathered = scratch + kTilesOfSums * kTileWords, *weights = scratch + kOtherFloats;
    TilePass p{a.col + a.crow[b],
               a.crow[b + 1] - a.crow[b],
               nullptr,
               vectors * kTileSide,
               {weights, weights + weight_floats(a)},
               gathered,
               scratch};
    for (int64_t part = 0; part < parts; part += 2) {
      const int64_t both = parts - part < 2 ? 1 : 2, together = kTilesOfSums / both;
      transpose_weights(a, b, part, weights);
      if (both == 2) transpose_weights(a, b, part + 1, weights + weight_floats(a));
      for (int64_t v = 0; v < vectors; v += together) {
        const int64_t now = vectors - v < together ? vectors - v : together;
        p.x = packed + v * kTileSide;
        pass_of(both, now)(p);
        for (int64_t i = 0; i < both * now; ++i) {
          const int64_t at = row + (v + i % now) * kTileSide,
                        rows = stop - at < kTileSide ? stop - at : kTileSide;
          finish_tile<Dot>(a, scratch + (2 * (i / now) + i % now) * kTileWords, at, rows,
                           b * a.v + (part + i / now) * kTileSide);
        }
      }
    }
  }

  static Pass pass_of(int64_t parts, int64_t vectors) {
    static constexpr Pass kOne[] = {tile_pass<Dot, 1, 1>, tile_pass<Dot, 1, 2>, tile_pass<Dot, 1, 3>,
                                    tile_pass<Dot, 1, 4>};
    static constexpr Pass kTwo[] = {tile_pass<Dot, 2, 1>, tile_pass<Dot, 2, 2>};
    return parts == 1 ? kOne[vectors - 1] : kTwo[vectors - 1];
  }
};
