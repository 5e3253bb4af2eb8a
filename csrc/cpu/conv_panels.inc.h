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
  // Sums of all outputs wait in L2 while the panels go by.
  static int64_t sum_floats(const ConvArgs& a) {
    return index_of(a).row_blocks() * kConvPanelRows * a.v * most_rows(a) * Vec::width;
  }
  // Planes of one panel are made where they are used, in L1. From channels last, where a transposition moves
  // more channels at once than a panel may have, all are made first.
  static int64_t panels_at_once(const ConvArgs& a) {
    return a.x_strides.column == 1 ? 1 : index_of(a).panels();
  }
  static size_t scratch_floats(const ConvArgs& a) {
    const int64_t of_panel =
        index_of(a).header().panel_groups * ConvPlanes(a, most_rows(a)).of_group * Vec::width;
    return size_t(sum_floats(a) + panels_at_once(a) * of_panel);
  }

  // What one panel adds to the sums of the outputs of one row block.
  template <int J, int R>
  static void cell(const ConvTile& tile, int64_t row_block, int64_t panel, const float* x, float* sums) {
    constexpr int64_t lanes = R * Vec::width;
    const PanelIndex index = index_of(tile.a);
    const int64_t number = row_block * index.panels() + panel;
    const uint8_t* offsets = index.offsets() + index.first_block()[number];
    const float* weights = index.values() + int64_t(index.first_block()[number]) * J;
    const PanelRun* runs = index.runs();
    const int32_t* places = tile.places.data();
    for (int64_t i = index.first_run()[number]; i < index.first_run()[number + 1]; ++i) {
      const int64_t length = runs[i].length;
      panel_run<Vec, J, R>([=](int64_t j) { return x + places[offsets[j]]; }, weights, length,
                           sums + runs[i].row * (J * lanes));
      offsets += length;
      weights += length * J;
    }
  }

  using Cell = void (*)(const ConvTile&, int64_t, int64_t, const float*, float*);
  template <int J, int R = fit<J>>
  static Cell cell_of(int64_t r) {
    if constexpr (R == 0)
      return nullptr;
    else
      return r == R ? cell<J, R> : cell_of<J, R - 1>(r);
  }

  // Of the outputs there are, and of those that the last block lacks.
  static void start_sums(const ConvArgs& a, int64_t n0, int64_t n1, int64_t lanes, float* sums) {
    const int64_t last = a.block_rows() * a.v;
    for (int64_t n = n0; n < (n1 < last ? n1 : last); ++n)
      for (int64_t lane = 0; lane < lanes; lane += Vec::width, sums += Vec::width)
        Vec::store(sums, Vec::broadcast(a.bias && n < a.n ? a.bias[n] : 0.0f));
  }

  static void run(const ConvArgs& args, int64_t begin, int64_t end, float* scratch) {
    const ConvArgs a = with_full_rows(args, Vec::width);
    const ConvTiling how = tiling(a);
    const PanelIndex index = index_of(a);
    const int64_t groups = index.header().panel_groups, live = index.header().live;
    const auto cut = [&](int64_t chunk) { return index.row_blocks() * chunk / a.chunks; };
    ConvTile tile(a, how, groups);
    for_each_tile(a, begin, end, cut, [&](int64_t number, int64_t first, int64_t last) {
      tile.move_to(number);
      const int64_t n0 = first * kConvPanelRows * a.v, n1 = last * kConvPanelRows * a.v;
      const int64_t of_block = kConvPanelRows * a.v * tile.rows * Vec::width;
      const int64_t of_panel = groups * tile.planes.of_group * Vec::width, at_once = panels_at_once(a);
      float* packed = scratch + sum_floats(a);
      const Cell cell =
          a.v == 1 ? cell_of<1>(tile.rows) : (a.v == 2 ? cell_of<2>(tile.rows) : cell_of<3>(tile.rows));
      start_sums(a, n0, n1, tile.rows * Vec::width, scratch);
      for (int64_t from = 0; from < index.panels(); from += at_once) {
        const int64_t channel = from * groups, most = at_once * groups, left = live - channel;
        const float* planes = planes_of<Vec>(tile, index.live(), channel, left < most ? left : most, packed);
        for (int64_t row_block = first; row_block < last; ++row_block)
          for (int64_t panel = from; panel < from + at_once; ++panel)
            cell(tile, row_block, panel, planes + (panel - from) * of_panel,
                 scratch + (row_block - first) * of_block);
      }
      unpack_sums<Vec>(tile, n0, n1 < a.n ? n1 : a.n, scratch);
    });
  }

  static constexpr ConvKernel kernel() { return {"panels", true, tiles, scratch_floats, run}; }
};
