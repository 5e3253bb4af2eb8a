// Included inside each ISA's region. The gradients of Linear for short blocks: lanes are rows of the batch.
//
// They read the index of the panels kernel the other way round: a run is one block row's part of one panel of
// columns, so its gradient of the output stays in registers, and what the panel's columns gather (gradient of
// the input) or are asked for (gradient of the values) stays in L1.

// Vectors from one column's sums to the next's. An odd number: a load whose address has the lower 12 bits of
// a store that is under way waits for it, and with 4 vectors a column every 16th would have them.
constexpr int64_t sums_step(int64_t vectors) { return vectors | 1; }

// Packed gradient of the output (n, R vectors), and the sums of one panel's columns.
template <class Vec, int J, int R>
void input_run(const uint8_t* offsets, const float* weights, int64_t length, const float* grad,
               float* panel) {
  using T = typename Vec::T;
  constexpr int W = Vec::width;
  T up[J][R];
  for (int i = 0; i < J; ++i)
    for (int r = 0; r < R; ++r) up[i][r] = Vec::load(grad + (i * R + r) * W);
  for (int64_t j = 0; j < length; ++j) {
    float* sums = panel + offsets[j] * (sums_step(R) * W);
    T acc[R];
    SPARSEKERN_UNROLL
    for (int r = 0; r < R; ++r) acc[r] = Vec::load(sums + r * W);
    SPARSEKERN_UNROLL
    for (int i = 0; i < J; ++i) {
      const T w = Vec::broadcast(weights[j * J + i]);
      SPARSEKERN_UNROLL
      for (int r = 0; r < R; ++r) acc[r] = Vec::fma(w, up[i][r], acc[r]);
    }
    SPARSEKERN_UNROLL
    for (int r = 0; r < R; ++r) Vec::store(sums + r * W, acc[r]);
  }
}

// Sums over the lanes of four products at a time; `to` gets them in BSR order, added where `add`.
template <class Vec, int J, int R>
void values_run(const uint8_t* offsets, int64_t length, const float* grad, const float* panel, bool add,
                float* to) {
  using T = typename Vec::T;
  constexpr int W = Vec::width, kBlocks = J == 1 ? 4 : 1;
  static_assert(J <= 4, "a block is reduced at once");
  T up[J][R];
  for (int i = 0; i < J; ++i)
    for (int r = 0; r < R; ++r) up[i][r] = Vec::load(grad + (i * R + r) * W);
  for (int64_t j = 0; j < length; j += kBlocks) {
    const int64_t blocks = length - j < kBlocks ? length - j : kBlocks;
    T sum[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
    SPARSEKERN_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const float* x = panel + offsets[j + (b < blocks ? b : 0)] * (R * W);
      SPARSEKERN_UNROLL
      for (int r = 0; r < R; ++r) {
        const T each = Vec::load(x + r * W);
        SPARSEKERN_UNROLL
        for (int i = 0; i < J; ++i) sum[b + i] = Vec::fma(each, up[i][r], sum[b + i]);
      }
    }
    float four[4];
    Vec::reduce4(sum, four);
    for (int64_t i = 0; i < blocks * J; ++i) to[j * J + i] = (add ? to[j * J + i] : 0.0f) + four[i];
  }
}

template <class Vec>
struct GradPanels {
  static constexpr int kVectors = 4;

  static int64_t vectors(const LinearGradArgs& a) { return (a.m + Vec::width - 1) / Vec::width; }
  static int64_t tiles_of_rows(const LinearGradArgs& a) { return tile_count(vectors(a), kVectors); }
  static int64_t first_row(const LinearGradArgs& a, int64_t tile) {
    const int64_t row = tile_begin(vectors(a), tiles_of_rows(a), tile) * Vec::width;
    return row < a.m ? row : a.m;
  }
  static int64_t grad_floats(const LinearGradArgs& a) {
    return (a.n + kPanelHeight + Vec::width) * kVectors * Vec::width;
  }
  static constexpr int64_t kPanelFloats = (kPanelColumns + Vec::width) * sums_step(kVectors) * Vec::width;
  static size_t scratch_floats(const LinearGradArgs& a) { return size_t(grad_floats(a) + kPanelFloats); }
  // Tasks are panels of columns: every sum is made by one thread, in the order of the rows.
  static int64_t cut(const LinearGradArgs& a, int64_t chunk) {
    return index_of(a).panels() * chunk / a.chunks;
  }
  static PanelIndex index_of(const LinearGradArgs& a) { return {const_cast<int32_t*>(a.panels)}; }
  // The compact columns of a panel.
  static Columns columns_of(const LinearGradArgs& a, int64_t panel) {
    const PanelIndex index = index_of(a);
    const int64_t first = panel * kPanelColumns, left = index.columns_alive() - first;
    return {left < kPanelColumns ? left : kPanelColumns, a.k,
            index.compact() ? index.live() + first : nullptr};
  }

  // Calls body(index, run, its first block in the order of the index, gradient of its outputs).
  template <class Body>
  static void for_each_run(const LinearGradArgs& a, int64_t panel, int64_t lanes, const float* grad,
                           Body body) {
    const PanelIndex index = index_of(a);
    for (int64_t row_block = 0; row_block < index.row_blocks(); ++row_block) {
      const int64_t cell = row_block * index.panels() + panel;
      int64_t block = index.first_block()[cell];
      for (int64_t i = index.first_run()[cell]; i < index.first_run()[cell + 1]; ++i) {
        const PanelRun run = index.runs()[i];
        body(index, i, block, grad + (row_block * kPanelRows + run.row) * a.v * lanes);
        block += run.length;
      }
    }
  }

  template <int J, int R>
  static void input_panel(const LinearGradArgs& a, int64_t panel, const float* grad, float* sums) {
    for_each_run(a, panel, R * Vec::width, grad,
                 [&](const PanelIndex& index, int64_t run, int64_t block, const float* up) {
                   input_run<Vec, J, R>(index.offsets() + block, index.values() + block * J,
                                        index.runs()[run].length, up, sums);
                 });
  }
  template <int J, int R>
  static void values_panel(const LinearGradArgs& a, int64_t panel, const float* grad, const float* x,
                           bool add) {
    for_each_run(a, panel, R * Vec::width, grad,
                 [&](const PanelIndex& index, int64_t run, int64_t block, const float* up) {
                   values_run<Vec, J, R>(index.offsets() + block, index.runs()[run].length, up, x, add,
                                         a.out + int64_t(index.sources()[run]) * J);
                 });
  }

  using Input = void (*)(const LinearGradArgs&, int64_t, const float*, float*);
  using Values = void (*)(const LinearGradArgs&, int64_t, const float*, const float*, bool);
  template <int J, int R>
  static Input input_of(int64_t v, int64_t r) {
    if constexpr (J == 0 || R == 0)
      return nullptr;
    else
      return v == J ? (r == R ? input_panel<J, R> : input_of<J, R - 1>(v, r)) : input_of<J - 1, R>(v, r);
  }
  template <int J, int R>
  static Values values_of(int64_t v, int64_t r) {
    if constexpr (J == 0 || R == 0)
      return nullptr;
    else
      return v == J ? (r == R ? values_panel<J, R> : values_of<J, R - 1>(v, r)) : values_of<J - 1, R>(v, r);
  }

  // The last block row may be ragged: what it stores beyond n meets a gradient of zero.
  static void pack_grad(const LinearGradArgs& a, int64_t row0, int64_t rows, int64_t groups, float* grad) {
    pack_lanes<Vec>(a.grad + row0 * a.grad_stride, a.grad_stride, rows, a.n, groups, grad);
    const int64_t lanes = groups * Vec::width;
    for (int64_t i = a.n * lanes; i < (a.n + kPanelHeight) * lanes; ++i) grad[i] = 0.0f;
  }

  // The gradient of the columns from this panel's first live one to the next panel's: of the dead ones, zero.
  static void scatter(const Columns& columns, int64_t panel, int64_t panels, const float* sums, int64_t step,
                      int64_t rows, float* out) {
    const int64_t from = panel == 0 ? 0 : columns.live[0];
    const int64_t to = panel + 1 == panels ? columns.all : columns.live[columns.count];
    for (int64_t row = 0; row < rows; ++row) {
      float* y = out + row * columns.all;
      for (int64_t j = from; j < to; ++j) y[j] = 0.0f;
      for (int64_t i = 0; i < columns.count; ++i) y[columns.live[i]] = sums[i * step + row];
    }
  }

  static void input(const LinearGradArgs& a, int64_t begin, int64_t end, float* scratch) {
    const auto columns = [&](int64_t chunk) { return cut(a, chunk); };
    for_each_tile(a, begin, end, columns, [&](int64_t tile, int64_t first, int64_t last) {
      const int64_t row0 = first_row(a, tile), rows = first_row(a, tile + 1) - row0;
      const int64_t groups = (rows + Vec::width - 1) / Vec::width, step = sums_step(groups) * Vec::width;
      float* sums = scratch + grad_floats(a);
      pack_grad(a, row0, rows, groups, scratch);
      const Input panel_of = input_of<kPanelHeight, kVectors>(a.v, groups);
      for (int64_t panel = first; panel < last; ++panel) {
        const Columns columns = columns_of(a, panel);
        for (int64_t i = 0; i < columns.count * step; i += Vec::width) Vec::store(sums + i, Vec::zero());
        panel_of(a, panel, scratch, sums);
        float* out = a.out + row0 * a.k;
        if (columns.live)
          scatter(columns, panel, index_of(a).panels(), sums, step, rows, out);
        else
          unpack_lanes<Vec>(sums, step, rows, columns.count, out + panel * kPanelColumns, a.k);
      }
    });
  }

  static void values(const LinearGradArgs& a, int64_t begin, int64_t end, float* scratch) {
    const int64_t first = cut(a, begin), last = cut(a, end);
    for (int64_t tile = 0; first < last && tile < tiles_of_rows(a); ++tile) {
      const int64_t row0 = first_row(a, tile), rows = first_row(a, tile + 1) - row0;
      const int64_t groups = (rows + Vec::width - 1) / Vec::width;
      float* x = scratch + grad_floats(a);
      pack_grad(a, row0, rows, groups, scratch);
      const Values panel_of = values_of<kPanelHeight, kVectors>(a.v, groups);
      for (int64_t panel = first; panel < last; ++panel) {
        const Columns columns = columns_of(a, panel);
        const float* from = a.x + row0 * a.x_stride + (columns.live ? 0 : panel * kPanelColumns);
        pack_lanes<Vec>(from, a.x_stride, rows, columns, groups, x);
        panel_of(a, panel, scratch, x, tile > 0);
      }
    }
  }

  static int64_t one(const LinearGradArgs&) { return 1; }
  static constexpr LinearGradKernel input_kernel() { return {tiles_of_rows, scratch_floats, input}; }
  static constexpr LinearGradKernel values_kernel() { return {one, scratch_floats, values}; }
};
