// Included inside each ISA's region. Convolution with single weights and short blocks: panel_run of
// linear_panels.inc.h, on the planes of a tile.
//
// A nonzero weight meets R vectors of its plane, one for each row of the tile; up to 14 rows, so that the
// loads of a weight and of its place count little. The planes of a panel of channels stay in L1, where the
// taps of a kernel share them.

template <class Vec>
struct ConvPanels {
  // Sums and weights of J outputs must fit in the registers, with one to spare.
  template <int J>
  static constexpr int fit =
      (Vec::registers - 1 - J) / J < kTileRows ? (Vec::registers - 1 - J) / J : kTileRows;

  static int64_t most_rows(const ConvArgs& a) {
    const int64_t registers = a.v == 1 ? fit<1> : (a.v == 2 ? fit<2> : fit<3>);
    return a.taps() == 1 && kPointwiseRows < registers ? kPointwiseRows : registers;
  }
  static PanelIndex index_of(const ConvArgs& a) { return {const_cast<int32_t*>(a.panels)}; }
  static ConvTiling tiling(const ConvArgs& a) { return {a, Vec::width, most_rows(a)}; }
  static int64_t tiles(const ConvArgs& a) { return tiling(with_full_rows(a, Vec::width)).tiles(); }
  static int64_t sum_floats(const ConvArgs& a) { return kConvPanelRows * a.v * most_rows(a) * Vec::width; }
  static size_t scratch_floats(const ConvArgs& a) {
    const ConvPlanes planes(a, most_rows(a));
    return size_t(sum_floats(a) + index_of(a).header().live * planes.of_group * Vec::width);
  }

  template <int J, int R>
  static void rows(const ConvTile& tile, int64_t row_block, const float* packed, float* sums) {
    constexpr int64_t lanes = R * Vec::width;
    const ConvArgs& a = tile.a;
    const PanelIndex index = index_of(a);
    const int64_t panels = index.panels(), n0 = row_block * kConvPanelRows * J;
    const int64_t n1 = n0 + kConvPanelRows * J < a.n ? n0 + kConvPanelRows * J : a.n;
    for (int64_t i = 0; i < (n1 - n0 + J - 1) / J * J; ++i)
      for (int64_t lane = 0; lane < lanes; lane += Vec::width)
        Vec::store(sums + i * lanes + lane, Vec::broadcast(a.bias && n0 + i < a.n ? a.bias[n0 + i] : 0.0f));
    const PanelRun* runs = index.runs();
    const int32_t* places = tile.places.data();
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t cell = row_block * panels + panel;
      const uint8_t* offsets = index.offsets() + index.first_block()[cell];
      const float* weights = index.values() + int64_t(index.first_block()[cell]) * J;
      const float* x = packed + panel * index.header().panel_groups * tile.planes.of_group * Vec::width;
      for (int64_t i = index.first_run()[cell]; i < index.first_run()[cell + 1]; ++i) {
        const int64_t length = runs[i].length;
        panel_run<Vec, J, R>([=](int64_t j) { return x + places[offsets[j]]; }, weights, length,
                             sums + runs[i].row * (J * lanes));
        offsets += length;
        weights += length * J;
      }
    }
    unpack_sums<Vec>(tile, n0, n1, sums);
  }

  using Rows = void (*)(const ConvTile&, int64_t, const float*, float*);
  template <int J, int R = fit<J>>
  static Rows rows_of(int64_t r) {
    if constexpr (R == 0)
      return nullptr;
    else
      return r == R ? rows<J, R> : rows_of<J, R - 1>(r);
  }

  static void run(const ConvArgs& args, int64_t begin, int64_t end, float* scratch) {
    const ConvArgs a = with_full_rows(args, Vec::width);
    const ConvTiling how = tiling(a);
    const PanelIndex index = index_of(a);
    const auto cut = [&](int64_t chunk) { return index.row_blocks() * chunk / a.chunks; };
    for_each_tile(a, begin, end, cut, [&](int64_t number, int64_t first, int64_t last) {
      const ConvTile tile(a, how, number, index.header().panel_groups);
      float* packed = scratch + sum_floats(a);
      pack_planes<Vec>(tile, index.live(), index.header().live, packed);
      const Rows rows =
          a.v == 1 ? rows_of<1>(tile.rows) : (a.v == 2 ? rows_of<2>(tile.rows) : rows_of<3>(tile.rows));
      for (int64_t row_block = first; row_block < last; ++row_block) rows(tile, row_block, packed, scratch);
    });
  }

  static constexpr ConvKernel kernel() { return {"panels", true, tiles, scratch_floats, run}; }
};
