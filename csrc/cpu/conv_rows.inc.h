// Included inside each ISA's region. Convolution with blocks (v, 1): block_outputs of linear_rows.inc.h, on
// the planes of a tile. The tile's planes live in L2.

template <class Vec>
struct ConvRows {
  static constexpr int kOutputs = Vec::outputs_at_once;
  static constexpr int64_t kPlaneFloats = 256 * 1024;  // 1 MB, an L2 of today
  static constexpr int64_t kFlushOutputs = 32;         // sums of about so many outputs go to y at a time

  static PanelIndex index_of(const ConvArgs& a) { return {const_cast<int32_t*>(a.panels)}; }
  static int64_t plane_floats(const ConvArgs& a, int64_t rows) {
    return index_of(a).header().live * ConvPlanes(a, rows).of_group * Vec::width;
  }
  static int64_t most_rows(const ConvArgs& a) {
    int64_t rows = kTileRows;
    while (rows > 1 && plane_floats(a, rows) > kPlaneFloats) --rows;
    return rows;
  }
  static ConvTiling tiling(const ConvArgs& a) { return {a, Vec::width, most_rows(a)}; }
  static int64_t tiles(const ConvArgs& a) { return tiling(with_full_rows(a, Vec::width)).tiles(); }
  static int64_t parts(const ConvArgs& a) { return (a.v + kOutputs - 1) / kOutputs; }
  static int64_t flush_rows(const ConvArgs& a) { return a.v >= kFlushOutputs ? 1 : kFlushOutputs / a.v; }
  static int64_t sum_floats(const ConvArgs& a) { return flush_rows(a) * a.v * most_rows(a) * Vec::width; }
  static size_t scratch_floats(const ConvArgs& a) {
    return size_t(sum_floats(a) + plane_floats(a, most_rows(a)));
  }

  struct OnPlanes {
    using Function = void (*)(const BlockOutputs&, const float*, const int32_t*, float*, int64_t);
    template <int J, int R>
    static Function of() {
      return [](const BlockOutputs& block, const float* planes, const int32_t* places, float* sums,
                int64_t step) {
        block_outputs<Vec, J, R>(block, [=](int32_t column) { return planes + places[column]; }, sums, step);
      };
    }
  };

  static void run(const ConvArgs& args, int64_t begin, int64_t end, float* scratch) {
    const ConvArgs a = with_full_rows(args, Vec::width);
    const ConvTiling how = tiling(a);
    const PanelIndex index = index_of(a);
    float* const planes = scratch + sum_floats(a);
    const auto cut = [&](int64_t chunk) { return chunk_begin(a, chunk); };
    ConvTile tile(a, how, index.header().live);
    for_each_tile(a, begin, end, cut, [&](int64_t number, int64_t first, int64_t last) {
      tile.move_to(number);
      const float* packed = planes_of<Vec>(tile, index.live(), 0, index.header().live, planes);
      for (int64_t from = first; from < last; from += flush_rows(a)) {
        const int64_t to = from + flush_rows(a) < last ? from + flush_rows(a) : last;
        for (int64_t b = from; b < to; ++b)
          block_row(tile, b, packed, scratch + (b - from) * a.v * tile.rows * Vec::width);
        unpack_sums<Vec>(tile, from * a.v, to * a.v < a.n ? to * a.v : a.n, scratch);
      }
    });
  }

  static void block_row(const ConvTile& tile, int64_t b, const float* packed, float* sums) {
    const ConvArgs& a = tile.a;
    const int64_t outputs = a.n - b * a.v < a.v ? a.n - b * a.v : a.v;  // the last block row may be ragged
    const int64_t step = tile.rows * Vec::width;
    for (int64_t part = 0; part < parts(a); ++part) {
      const int64_t lane = a.v * part / parts(a), stop = a.v * (part + 1) / parts(a);
      const int64_t height = (stop < outputs ? stop : outputs) - lane;
      if (height <= 0) continue;
      const int64_t most = most_vectors_of<Vec>(height), groups = (tile.rows + most - 1) / most;
      const BlockOutputs work{a.values + a.crow[b] * a.v + lane, a.v, a.col + a.crow[b],
                              a.crow[b + 1] - a.crow[b], a.bias ? a.bias + b * a.v + lane : nullptr};
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t row = tile.rows * group / groups, rows = tile.rows * (group + 1) / groups - row;
        of_outputs<Vec, OnPlanes>(height, rows)(work, packed + row * Vec::width, tile.places.data(),
                                                sums + lane * step + row * Vec::width, step);
      }
    }
  }

  static constexpr ConvKernel kernel() { return {"rows", false, tiles, scratch_floats, run}; }
};
