// The index of a weight, made once: which columns are alive, and for short blocks the blocks in the order in
// which the kernels over panels read them, with a copy of their values in the same order.
//
// Columns come in groups of `taps`: one for Linear, the kh * kw weights of an input channel for Conv2d. A
// group without a nonzero is dead. Where enough are, the kernels pack the live ones only, and count columns
// among them (compact).
//
// Block rows are cut into row blocks, compact columns into panels. A run is what one block row stores in one
// panel. Within a row block and panel, runs are sorted by length, so that the loop over a run is predicted.
// The copy is made anew whenever a checksum of the values says that they are others: values may be written by
// anyone at any time, and no product must be made from what they were.
//
// For single weights of Linear there are also their columns in BSR order, as 16 bits: with one row of x,
// bytes are the limit.
//
// It lives in one int32 buffer, which the tensor `index` of a layer holds: a header, then the parts below.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/kernels.h"

namespace sparsekern {

constexpr int64_t kPanelColumns = 128;  // of Linear; an offset in a panel is a byte; 4 vectors of 16: 32 KB
constexpr int64_t kMostPanelColumns = 256;
constexpr int64_t kPanelRows =
    256;  // block rows of a row block; of Conv2d fewer, so that threads can share them
constexpr int64_t kConvPanelRows = 64;
constexpr int64_t kPanelHeight = 3;  // outputs of the tallest block that the kernels over panels take

struct PanelHeader {
  int32_t n, k, v, blocks, runs, packed;  // packed: whether `checksum` says anything
  uint64_t checksum;                      // of the values that were copied
  int32_t taps, panel_groups, live;       // columns of a group, groups of a panel, groups that are alive
  int32_t panel_rows;                     // block rows of a row block
  int32_t reserved[4];

  bool has_panels() const { return v <= kPanelHeight; }
  bool is_compact() const { return live != k / taps; }
};
static_assert(sizeof(PanelHeader) == 64, "the parts behind it are aligned");

struct PanelRun {
  uint16_t row, length;  // block row in its row block; blocks
};

// Where the parts of an index are. All counts follow from the header.
struct PanelIndex {
  int32_t* base;

  PanelHeader& header() const { return *reinterpret_cast<PanelHeader*>(base); }
  int64_t panels() const { return panels_of(header()); }
  int64_t panel_columns() const { return int64_t(header().panel_groups) * header().taps; }
  int64_t columns_alive() const { return int64_t(header().live) * header().taps; }
  int64_t row_blocks() const { return row_blocks_of(header()); }
  int64_t cells() const { return cells_of(header()); }
  // The groups that are alive, rising.
  int32_t* live() const { return base + sizeof(PanelHeader) / 4; }
  // Compact columns of every block, in BSR order; null where all groups are alive.
  int32_t* compact() const { return header().is_compact() ? live() + header().live : nullptr; }
  // First run and first block of every cell (row block, then panel), and the ends.
  int32_t* first_run() const { return live() + header().live + compact_words(header()); }
  int32_t* first_block() const { return first_run() + cells() + 1; }
  // Of each run: its first block in BSR order.
  int32_t* sources() const { return first_block() + cells() + 1; }
  PanelRun* runs() const { return reinterpret_cast<PanelRun*>(sources() + header().runs); }
  uint8_t* offsets() const { return reinterpret_cast<uint8_t*>(sources() + 2 * int64_t(header().runs)); }
  // Of every block, in BSR order, counted among all; null unless has_columns. Values lie behind them, so that
  // a whole vector may be read from the last.
  uint16_t* columns() const {
    return has_columns(header()) ? reinterpret_cast<uint16_t*>(sources() + 2 * int64_t(header().runs) +
                                                               (int64_t(header().blocks) + 3) / 4)
                                 : nullptr;
  }
  float* values() const { return reinterpret_cast<float*>(base + words() - value_words(header())); }
  int64_t words() const { return words_of(header()); }

  static bool has_columns(const PanelHeader& h) { return h.v == 1 && h.taps == 1 && h.k <= 65536; }
  static int64_t row_blocks_of(const PanelHeader& h) {
    return ((int64_t(h.n) + h.v - 1) / h.v + h.panel_rows - 1) / h.panel_rows;
  }
  static int64_t panels_of(const PanelHeader& h) {
    return (int64_t(h.live) + h.panel_groups - 1) / h.panel_groups;
  }
  static int64_t cells_of(const PanelHeader& h) { return panels_of(h) * row_blocks_of(h); }
  static int64_t compact_words(const PanelHeader& h) { return h.is_compact() ? h.blocks : 0; }
  static int64_t value_words(const PanelHeader& h) {
    return h.has_panels() ? (int64_t(h.blocks) * h.v + 15) / 16 * 16 : 0;
  }
  static int64_t words_of(const PanelHeader& h) {
    const int64_t columns = has_columns(h) ? (int64_t(h.blocks) + 1) / 2 : 0;
    const int64_t panels =
        h.has_panels() ? 2 * (cells_of(h) + 1) + 2 * int64_t(h.runs) + (int64_t(h.blocks) + 3) / 4 : 0;
    return (16 + h.live + compact_words(h) + panels + columns + 15) / 16 * 16 + value_words(h);
  }
};

// Lets a product see what the index says.
inline void use_index(LinearArgs& args, const PanelIndex& index) {
  if (index.header().has_panels()) args.panels = index.base;
  if (!index.compact()) return;
  args.live = index.live(), args.compact = index.compact(), args.live_columns = index.columns_alive();
}

// What the index is to be of; `panel_groups` * `taps` at most kMostPanelColumns.
struct PanelShape {
  int64_t n, k, v, taps, panel_groups, panel_rows;
};

// Its words; the copy of the values is left for the first product.
// Throws std::invalid_argument: crow falls, or a column is not in [0, k).
std::vector<int32_t> make_panel_index(const int32_t* crow, const int32_t* col, const PanelShape& shape);

// Copies the values into the kernel's order; `values` lie as LinearArgs says. What lies beyond n becomes
// zero.
void pack_panel_values(const PanelIndex& index, const float* values);

}  // namespace sparsekern
