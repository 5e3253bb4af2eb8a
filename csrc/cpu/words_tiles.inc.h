// Included inside a region with AMX and AVX512_BF16, behind Zmm and a Dot. Blocks of words on tiles.
//
// One instruction adds the product of 16 outputs x 16 words of weights and 16 words x 16 lanes of x. The
// words are those of 16 nonzero blocks of a block row: their weights are transposed once for a tile of lanes,
// or for many, and what they see in the planes is copied to lie side by side. Tile loads cannot read what a
// store has not yet brought to L1, so it is copied one product ahead, across block rows, and the sums of a
// block row are finished behind the first product of the next. Tile registers: 0-3 sums, 4-5 weights, 6-7 x.

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

// One or two times 16 outputs of a block row, as passes want them.
struct TileWeights {
  int64_t output;         // the first
  int64_t parts;          // of 16 outputs: 1 or 2
  int64_t count, groups;  // of nonzero blocks; of 16 of those
  float* tiles;           // [part][group][output][block]
  int32_t* places;        // of the nonzero blocks: where what they see lies in the planes
};

// Sixteen nonzero blocks, or fewer; null where there are no more.
struct TileGroup {
  const TileWeights* weights;
  int64_t number;  // of those
};

// What a vector's lanes see of them.
inline void gather_tile(const TileGroup& group, const float* x, float* to) {
  if (!group.weights) return;
  const int32_t* places = group.weights->places + group.number * kTileSide;
  const int64_t left = group.weights->count - group.number * kTileSide;
  if (left >= kTileSide) {
    SPARSEKERN_UNROLL
    for (int64_t i = 0; i < kTileSide; ++i) Zmm::store(to + i * kTileSide, Zmm::load(x + places[i]));
  } else {
    for (int64_t i = 0; i < left; ++i) Zmm::store(to + i * kTileSide, Zmm::load(x + places[i]));
    for (int64_t i = left; i < kTileSide; ++i) Zmm::store(to + i * kTileSide, Zmm::zero());
  }
  order_memory();
}

// Multiplies what is gathered of one vector, and gathers for the next product elsewhere.
template <class Dot, int P>
inline void multiply_tile(const TileGroup& group, const TileGroup& next, const float* x,
                          const float* gathered, float* to) {
  constexpr int64_t kStride = kTileSide * sizeof(float);
  const TileWeights& w = *group.weights;
  gather_tile(next, x, to);
  _tile_loadd(4, w.tiles + group.number * kTileWords, kStride);
  _tile_loadd(6, gathered, kStride);
  SPARSEKERN_TILE_DOT(0, 4, 6);
  if constexpr (P == 2) {
    _tile_loadd(5, w.tiles + (w.groups + group.number) * kTileWords, kStride);
    SPARSEKERN_TILE_DOT(2, 5, 6);
  }
  order_memory();
}

// Of T > 1 vectors, the first of which is loaded, and in its place, vector by vector: stores lie between
// those of a vector and its load, and products between stores.
template <class Dot, int P, int T>
inline void multiply_tiles(const TileGroup& group, const TileGroup& next, const float* x, float* gathered) {
  static_assert(T > 1 && P * T <= kTilesOfSums, "sums have four tile registers");
  constexpr int64_t kStride = kTileSide * sizeof(float);
  const TileWeights& w = *group.weights;
  const auto gather = [&](int t) { gather_tile(next, x + t * kTileSide, gathered + t * kTileWords); };
  _tile_loadd(4, w.tiles + group.number * kTileWords, kStride);
  if constexpr (P == 2) _tile_loadd(5, w.tiles + (w.groups + group.number) * kTileWords, kStride);
  _tile_loadd(7, gathered + kTileWords, kStride);
  SPARSEKERN_TILE_DOT(0, 4, 6);
  if constexpr (P == 2) SPARSEKERN_TILE_DOT(2, 5, 6);
  gather(0);
  if constexpr (T > 2) _tile_loadd(6, gathered + 2 * kTileWords, kStride);
  SPARSEKERN_TILE_DOT(1, 4, 7);
  if constexpr (P == 2) SPARSEKERN_TILE_DOT(3, 5, 7);
  gather(1);
  if constexpr (T > 3) _tile_loadd(7, gathered + 3 * kTileWords, kStride);
  if constexpr (T > 2) {
    SPARSEKERN_TILE_DOT(2, 4, 6);
    gather(2);
  }
  _tile_loadd(6, gathered, kStride);
  if constexpr (T > 3) {
    SPARSEKERN_TILE_DOT(3, 4, 7);
    gather(3);
  }
  order_memory();
}

#undef SPARSEKERN_TILE_DOT

// Of each part and vector the sums, [output][lane], to tiles [part][kTilesOfSums].
template <int P, int T>
inline void store_sums(float* to) {
  constexpr int64_t kStride = kTileSide * sizeof(float), kNext = kTilesOfSums * kTileWords;
  _tile_stored(0, to, kStride);
  if constexpr (T > 1) _tile_stored(1, to + kTileWords, kStride);
  if constexpr (P == 2) {
    _tile_stored(2, to + kNext, kStride);
    if constexpr (T > 1) _tile_stored(3, to + kNext + kTileWords, kStride);
  } else {
    if constexpr (T > 2) _tile_stored(2, to + 2 * kTileWords, kStride);
    if constexpr (T > 3) _tile_stored(3, to + 3 * kTileWords, kStride);
  }
  order_memory();
}

inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Of the block row's nonzero blocks, as they are stored, their weights as they are wanted.
inline void transpose_weights(const WordArgs& a, int64_t first, const TileWeights& w) {
  for (int64_t part = 0; part < w.parts; ++part)
    for (int64_t group = 0; group < w.groups; ++group) {
      const int64_t begin = group * kTileSide, left = w.count - begin;
      const auto* from = reinterpret_cast<const float*>(a.values) + (first + begin) * a.v + w.output % a.v +
                         part * kTileSide;
      __m512 block[kTileSide];
      if (left >= kTileSide) {
        SPARSEKERN_UNROLL
        for (int64_t i = 0; i < kTileSide; ++i) block[i] = Zmm::load(from + i * a.v);
      } else {
        for (int64_t i = 0; i < kTileSide; ++i) block[i] = i < left ? Zmm::load(from + i * a.v) : Zmm::zero();
      }
      if (a.last_word != ~uint32_t{0})
        for (int64_t i = 0; i < kTileSide && i < left; ++i)
          if (a.col[first + begin + i] == a.words - 1)
            block[i] = _mm512_and_ps(block[i], _mm512_castsi512_ps(_mm512_set1_epi32(int(a.last_word))));
      Zmm::transpose(block);
      float* to = w.tiles + (part * w.groups + group) * kTileWords;
      for (int64_t i = 0; i < kTileSide; ++i) Zmm::store(to + i * kTileSide, block[i]);
    }
  order_memory();
}

// y[rows[lane]][output + i] from sums[i][lane], for lanes that are rows.
template <class Dot>
void finish_tile(const WordArgs& a, const float* sums, const int64_t* rows, int64_t output) {
  const int64_t stored = a.n - output < kTileSide ? a.n - output : kTileSide;
  __m512 block[kTileSide];
  for (int64_t i = 0; i < kTileSide; ++i) {
    const int64_t of = output + (i < stored ? i : 0);
    block[i] = activated(Dot::value_of_rows(a, rows, of, sums + i * kTileSide), a.activation);
  }
  const Zmm::Mask mask = Zmm::mask(stored);
  if (a.dtype == Dtype::kFloat32) {
    Zmm::transpose(block);
    for (int64_t r = 0; r < kTileSide; ++r)
      if (rows[r] >= 0) Zmm::store(static_cast<float*>(a.y) + rows[r] * a.n + output, block[r], mask);
    return;
  }
  __m256i narrow[kTileSide];
  transpose_to_bfloat16(block, narrow);
  for (int64_t r = 0; r < kTileSide; ++r)
    if (rows[r] >= 0)
      _mm256_mask_storeu_epi16(static_cast<uint16_t*>(a.y) + rows[r] * a.n + output, mask, narrow[r]);
}

// How much of y and of the weights is worked on at a time.
struct TilePlan {
  WordPlanes planes;
  WordTiling tiling;
  int64_t weight_floats;  // of transposed weights

  explicit TilePlan(const WordArgs& a) : planes(a), tiling(a, planes) {
    constexpr int64_t kCached = 64 * 1024;  // 256 KB: for all lanes of a convolution in turn
    const int64_t unit = (2 * kTileSide + 1) * (a.words + kTileSide + 15) / 16 * 16;  // of 32 outputs
    weight_floats = a.map && unit < kCached ? kCached : unit;
  }
  int64_t plane_floats() const { return planes.count() * tiling.length; }
};

template <class Dot>
struct WordTiles {
  // Weights [begin, end) with the vectors from x on, whose rows of y are given.
  using Pass = void (WordTiles::*)(const TileWeights* begin, const TileWeights* end, const float* x,
                                   const int64_t* rows) const;
  static constexpr int64_t kOtherFloats = 3 * kTilesOfSums * kTileWords;  // sums, gathered

  const WordArgs& a;
  const TilePlan& plan;
  float* scratch;  // tiles of sums [2][4], of gathered words [4]; weights; planes; units

  static int64_t tiles(const WordArgs& a) { return WordTiling(a, WordPlanes(a)).tiles(); }
  static size_t scratch_floats(const WordArgs& a) {
    const TilePlan plan(a);
    return size_t(kOtherFloats + plan.weight_floats + plan.plane_floats()) +
           size_t(a.block_rows() * units(a)) * sizeof(TileWeights) / sizeof(float);
  }

  static void run(const WordArgs& a, int64_t begin, int64_t end, float* scratch) {
    alignas(64) const TileConfig config;
    _tile_loadconfig(&config);
    const TilePlan plan(a);
    const WordTiles tiles{a, plan, scratch};
    const auto cut = [&](int64_t chunk) { return chunk_begin(a, chunk); };
    int64_t from = -1, to = -1;  // units whose weights are there
    for_each_tile(a, begin, end, cut, [&](int64_t tile, int64_t first, int64_t last) {
      const int64_t v0 = plan.tiling.first_vector(tile), v1 = plan.tiling.first_vector(tile + 1);
      int64_t packed = v0 * kTileSide;
      const int64_t end_unit = last * units(a);
      for (int64_t unit = first * units(a), next; unit < end_unit; unit = next) {
        if (unit != from) from = unit, to = tiles.load_weights(unit, end_unit);
        next = to < end_unit ? to : end_unit;
        for (int64_t v = v0; v < v1; v += kTilesOfSums) {
          const int64_t stop = v + kTilesOfSums < v1 ? v + kTilesOfSums : v1;
          const int64_t wanted =
              (stop * kTileSide + plan.planes.reach + kTileSide - 1) / kTileSide * kTileSide;
          if (wanted > packed) {
            pack_planes(plan.planes, packed, wanted, v0 * kTileSide, plan.tiling.length, tiles.packed());
            packed = wanted;
          }
          tiles.multiply(next - unit, v, stop, v0);
        }
      }
    });
    _tile_release();
  }

  // Pairs of 16 outputs in a block row, the last of which may be one.
  static int64_t units(const WordArgs& a) { return (a.v + 2 * kTileSide - 1) / (2 * kTileSide); }
  float* gathered() const { return scratch + 2 * kTilesOfSums * kTileWords; }
  float* weights() const { return scratch + kOtherFloats; }
  float* packed() const { return weights() + plan.weight_floats; }
  TileWeights* loaded() const { return reinterpret_cast<TileWeights*>(packed() + plan.plane_floats()); }

  // Of units [begin, end), as many as there is room for; where the rest begins.
  int64_t load_weights(int64_t begin, int64_t end) const {
    int64_t unit = begin;
    float* to = weights();
    for (; unit < end; ++unit) {
      const int64_t b = unit / units(a), output = b * a.v + unit % units(a) * 2 * kTileSide;
      const int64_t stop = (b + 1) * a.v < a.n ? (b + 1) * a.v : a.n;  // the last block row may be ragged
      const int64_t parts = stop - output > kTileSide ? 2 : (stop > output ? 1 : 0);
      const int64_t count = a.crow[b + 1] - a.crow[b], groups = (count + kTileSide - 1) / kTileSide;
      const int64_t tiles = parts * groups * kTileWords;
      if (to + tiles + groups * kTileSide > weights() + plan.weight_floats) break;
      const TileWeights w{output, parts, count, groups, to, reinterpret_cast<int32_t*>(to + tiles)};
      transpose_weights(a, a.crow[b], w);
      plan.planes.places(a.col + a.crow[b], count, plan.tiling.length, w.places);
      loaded()[unit - begin] = w;
      to += tiles + groups * kTileSide;
    }
    return unit;
  }

  // Vectors [v, stop), no more than tiles of sums, of a tile whose first is v0.
  void multiply(int64_t count, int64_t v, int64_t stop, int64_t v0) const {
    int64_t rows[kTilesOfSums * kTileSide];
    plan.planes.outputs(v * kTileSide, (stop - v) * kTileSide, rows);
    const TileWeights *w = loaded(), *end = w + count;
    while (w < end) {
      const TileWeights* same = w;
      while (same < end && same->parts == w->parts) ++same;
      const int64_t together = kTilesOfSums / (w->parts == 2 ? 2 : 1);
      for (int64_t at = v; w->parts > 0 && at < stop; at += together) {
        const Pass pass = pass_of(w->parts, stop - at < together ? stop - at : together);
        (this->*pass)(w, same, packed() + (at - v0) * kTileSide, rows + (at - v) * kTileSide);
      }
      w = same;
    }
  }

  // What is multiplied next is gathered before, as the head of this file says, and sums are finished behind
  // the next product. Both halves of a line of y are written one after the other.
  template <int P, int T>
  void pass(const TileWeights* begin, const TileWeights* end, const float* x, const int64_t* rows) const {
    constexpr int64_t kStep = kTilesOfSums * kTileWords;
    int64_t outputs[2], parts = 0, done = 0, step = 0;
    const auto from = [&](const TileWeights* w, int64_t group) {
      while (w < end && group >= w->groups) ++w, group = 0;
      return TileGroup{w < end ? w : nullptr, group};
    };
    const auto finish = [&] {
      for (int64_t t = 0; t < T && done > 0; ++t)
        for (int64_t part = 0; part < done; ++part)
          finish_tile<Dot>(a, scratch + part * kStep + t * kTileWords, rows + t * kTileSide, outputs[part]);
      done = 0;
    };
    for (int t = 0; t < T; ++t) gather_tile(from(begin, 0), x + t * kTileSide, gathered() + t * kTileWords);
    _tile_loadd(6, gathered(), kTileSide * sizeof(float));
    for (const TileWeights* w = begin; w < end; ++w) {
      zero_sums();
      if (parts == 0) prefetch_rows_of_y(rows, T * kTileSide, w->output);
      for (int64_t group = 0; group < w->groups; ++group) {
        if constexpr (T == 1) {
          float* now = gathered() + step++ % 2 * kTileWords;
          multiply_tile<Dot, P>({w, group}, from(w, group + 1), x, now, gathered() + step % 2 * kTileWords);
        } else {
          multiply_tiles<Dot, P, T>({w, group}, from(w, group + 1), x, gathered());
        }
        finish();
      }
      finish();
      store_sums<P, T>(scratch + parts * kStep);
      for (int64_t part = 0; part < P; ++part) outputs[parts++] = w->output + part * kTileSide;
      if (parts == 2 || w + 1 == end) done = parts, parts = 0;
    }
    finish();
  }

  void prefetch_rows_of_y(const int64_t* rows, int64_t count, int64_t output) const {
    const int64_t size = a.dtype == Dtype::kFloat32 ? 4 : 2;
    for (int64_t i = 0; i < count; ++i)
      if (rows[i] >= 0) prefetch_to_write(static_cast<const char*>(a.y) + (rows[i] * a.n + output) * size);
  }

  static Pass pass_of(int64_t parts, int64_t vectors) {
    static constexpr Pass kOne[] = {&WordTiles::pass<1, 1>, &WordTiles::pass<1, 2>, &WordTiles::pass<1, 3>,
                                    &WordTiles::pass<1, 4>};
    static constexpr Pass kTwo[] = {&WordTiles::pass<2, 1>, &WordTiles::pass<2, 2>};
    return parts == 1 ? kOne[vectors - 1] : kTwo[vectors - 1];
  }
};
