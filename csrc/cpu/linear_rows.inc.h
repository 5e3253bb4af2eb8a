// Included inside each ISA's region. Linear for any blocks (v, 1): lanes are rows of x.
//
// J outputs of a block share a column, so each vector of packed x that is loaded meets J broadcast weights:
// R + J loads for R * J FMAs. The packed tile of x lives in L2. Weights are read where the format holds them.

// How many vectors of rows go with J outputs: sums, x and one weight must fit in the registers. It never
// rises with J, so the shorter rest of a ragged block can be done with the vectors of the whole ones.
template <class Vec, int J>
struct RowVectors {
  static constexpr int fit = (Vec::registers - 1) / (J + 1);
  static constexpr int most = fit < Vec::batch_vectors ? fit : Vec::batch_vectors;
};

// Some outputs of one block row: so many blocks, v values each, of which `weights` are the first outputs'.
struct BlockOutputs {
  const float* weights;
  int64_t v;
  const int32_t* col;
  int64_t blocks;
  const float* bias;  // of the first output, or null
};

// sums[i * step ...] = R vectors of output i. `place` says where the vectors of x of a column are.
template <class Vec, int J, int R, class Place>
inline void block_outputs(const BlockOutputs& b, Place place, float* sums, int64_t step_of_sums) {
  using T = typename Vec::T;
  // U sums over the nonzeros side by side, see Chains in linear_outputs.inc.h.
  constexpr int W = Vec::width, U = J * R >= 8 ? 1 : (J * R >= 4 ? 2 : 4);
  T acc[U][J][R];
  for (int i = 0; i < J; ++i) {
    const T start = b.bias ? Vec::broadcast(b.bias[i]) : Vec::zero();
    for (int u = 0; u < U; ++u)
      for (int r = 0; r < R; ++r) acc[u][i][r] = u ? Vec::zero() : start;
  }
  const auto step = [&](int64_t j, T(&sum)[J][R]) {
    const float *x = place(b.col[j]), *w = b.weights + j * b.v;
    T xs[R];
    SPARSEKERN_UNROLL
    for (int r = 0; r < R; ++r) xs[r] = Vec::load(x + r * W);
    SPARSEKERN_UNROLL
    for (int i = 0; i < J; ++i) {
      const T each = Vec::broadcast(w[i]);
      SPARSEKERN_UNROLL
      for (int r = 0; r < R; ++r) sum[i][r] = Vec::fma(each, xs[r], sum[i][r]);
    }
  };
  int64_t j = 0;
  for (; j + U <= b.blocks; j += U) {
    SPARSEKERN_UNROLL
    for (int u = 0; u < U; ++u) step(j + u, acc[u]);
  }
  for (; j < b.blocks; ++j) step(j, acc[0]);
  for (int i = 0; i < J; ++i)
    for (int r = 0; r < R; ++r) {
      T sum = acc[0][i][r];
      for (int u = 1; u < U; ++u) sum = Vec::add(sum, acc[u][i][r]);
      Vec::store(sums + i * step_of_sums + r * W, sum);
    }
}

// Table::of<J, R>() for j outputs and r vectors, known at run time.
template <class Vec, class Table, int J, int R>
inline typename Table::Function of_vectors(int64_t r) {
  if constexpr (R == 0)
    return nullptr;
  else
    return r == R ? Table::template of<J, R>() : of_vectors<Vec, Table, J, R - 1>(r);
}
template <class Vec, class Table, int J = Vec::outputs_at_once>
inline typename Table::Function of_outputs(int64_t j, int64_t r) {
  if constexpr (J == 0)
    return nullptr;
  else
    return j == J ? of_vectors<Vec, Table, J, RowVectors<Vec, J>::most>(r)
                  : of_outputs<Vec, Table, J - 1>(j, r);
}
template <class Vec, int J = Vec::outputs_at_once>
inline int64_t most_vectors_of(int64_t j) {
  if constexpr (J == 0)
    return 1;
  else
    return j == J ? RowVectors<Vec, J>::most : most_vectors_of<Vec, J - 1>(j);
}

template <class Vec>
struct LinearRows {
  static constexpr int kOutputs = Vec::outputs_at_once;
  static constexpr int64_t kTileFloats = 256 * 1024;  // 1 MB, an L2 of today
  static constexpr int64_t kFlushOutputs = 32;        // sums of about so many outputs go to y at a time

  struct OnTile {
    using Function = void (*)(const BlockOutputs&, const float* tile, float* sums);
    template <int J, int R>
    static Function of() {
      return [](const BlockOutputs& block, const float* tile, float* sums) {
        constexpr int64_t lanes = R * Vec::width;
        block_outputs<Vec, J, R>(block, [=](int32_t column) { return tile + column * lanes; }, sums, lanes);
      };
    }
  };

  static bool takes(const LinearArgs&) { return true; }
  // A block is cut into equal parts of at most kOutputs outputs; the tallest bounds the vectors of a tile.
  static int64_t parts(const LinearArgs& a) { return (a.v + kOutputs - 1) / kOutputs; }
  static int64_t most_vectors(const LinearArgs& a) {
    const int64_t fit = most_vectors_of<Vec>((a.v + parts(a) - 1) / parts(a)),
                  near = kTileFloats / Vec::width;
    const int64_t cached = near / (a.packed_columns() > 0 ? a.packed_columns() : 1);
    return cached < 1 ? 1 : (cached < fit ? cached : fit);
  }
  static int64_t vectors(const LinearArgs& a) { return (a.m + Vec::width - 1) / Vec::width; }
  static int64_t tiles(const LinearArgs& a) { return tile_count(vectors(a), most_vectors(a)); }
  static int64_t flush_rows(const LinearArgs& a) { return a.v >= kFlushOutputs ? 1 : kFlushOutputs / a.v; }
  static int64_t sum_floats(const LinearArgs& a) {
    return flush_rows(a) * a.v * most_vectors(a) * Vec::width;
  }
  static size_t scratch_floats(const LinearArgs& a) {
    return size_t(sum_floats(a) + (a.packed_columns() + Vec::width) * most_vectors(a) * Vec::width);
  }

  static void run(const LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
    const int64_t count = tiles(a);
    const auto cut = [&](int64_t chunk) { return chunk_begin(a, chunk); };
    for_each_tile(a, begin, end, cut, [&](int64_t tile, int64_t first, int64_t last) {
      const int64_t v0 = tile_begin(vectors(a), count, tile), v1 = tile_begin(vectors(a), count, tile + 1);
      const int64_t row0 = v0 * Vec::width, row1 = v1 * Vec::width < a.m ? v1 * Vec::width : a.m;
      float* packed = scratch + sum_floats(a);
      pack_lanes<Vec>(a.x + row0 * a.x_stride, a.x_stride, row1 - row0, columns_of(a), v1 - v0, packed);
      const int64_t flush = flush_rows(a);
      for (int64_t from = first; from < last; from += flush) {
        const int64_t to = from + flush < last ? from + flush : last;
        const int64_t next = to * a.v, columns = a.n - next < flush * a.v ? a.n - next : flush * a.v;
        prefetch_rows(a.y + row0 * a.n + next, a.n, 0, row1 - row0, columns);
        some_block_rows(a, row0, row1 - row0, from, to, v1 - v0, packed, scratch);
      }
    });
  }

  static void some_block_rows(const LinearArgs& a, int64_t row0, int64_t rows, int64_t first, int64_t last,
                              int64_t vectors, const float* packed, float* sums) {
    const int64_t lanes = vectors * Vec::width, n0 = first * a.v, count = parts(a);
    const int64_t n1 = last * a.v < a.n ? last * a.v : a.n;
    for (int64_t b = first; b < last; ++b) {
      const int64_t outputs = a.n - b * a.v < a.v ? a.n - b * a.v : a.v;  // the last block row may be ragged
      for (int64_t part = 0; part < count; ++part) {
        const int64_t lane = a.v * part / count, stop = a.v * (part + 1) / count;
        const int64_t height = (stop < outputs ? stop : outputs) - lane;
        if (height <= 0) continue;
        const BlockOutputs block{a.values + a.crow[b] * a.v + lane, a.v, a.packed_col() + a.crow[b],
                                 a.crow[b + 1] - a.crow[b], a.bias ? a.bias + b * a.v + lane : nullptr};
        of_outputs<Vec, OnTile>(height, vectors)(block, packed, sums + (b * a.v + lane - n0) * lanes);
      }
    }
    float* y = a.y + row0 * a.n + n0;
    unpack_lanes<Vec>(sums, lanes, rows, n1 - n0, y, a.n);
    activate_rows<Vec>(y, a.n, rows, n1 - n0, a.activation);
  }

  static constexpr LinearKernel kernel() { return {"rows", false, takes, tiles, scratch_floats, run}; }
};
