#include "cpu/panel_index.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace sparsekern {

namespace {

struct Run {
  int32_t source;
  PanelRun run;
};

// The runs of one cell, shortest first; equal ones in the order of their rows.
void sort_by_length(std::vector<Run>& runs, std::vector<Run>& sorted) {
  int32_t begin[kPanelColumns + 2] = {};
  for (const Run& each : runs) ++begin[each.run.length + 1];
  for (int64_t length = 0; length <= kPanelColumns; ++length) begin[length + 1] += begin[length];
  sorted.resize(runs.size());
  for (const Run& each : runs) sorted[begin[each.run.length]++] = each;
}

// They were checked when the weight was made, and may have been written since: a kernel would read anywhere.
void check_indices(const int32_t* crow, const int32_t* col, int64_t rows, int64_t k) {
  for (int64_t row = 0; row < rows; ++row)
    if (crow[row] < 0 || crow[row + 1] < crow[row])
      throw std::invalid_argument("crow: expected to rise from 0, got " + std::to_string(crow[row]) +
                                  " and then " + std::to_string(crow[row + 1]));
  for (int64_t j = 0; j < (rows ? crow[rows] : 0); ++j)
    if (col[j] < 0 || col[j] >= k)
      throw std::invalid_argument("col: expected in [0, " + std::to_string(k) + "), got " +
                                  std::to_string(col[j]));
}

}  // namespace

std::vector<int32_t> make_panel_index(const int32_t* crow, const int32_t* col, int64_t n, int64_t k,
                                      int64_t v) {
  const int64_t rows = (n + v - 1) / v, panels = (k + kPanelColumns - 1) / kPanelColumns;
  check_indices(crow, col, rows, k);
  std::vector<int32_t> first_run{0}, first_block{0};
  std::vector<Run> all, cell, sorted;
  std::vector<int32_t> at(crow, crow + rows);  // of each block row: the first block not yet in a run
  for (int64_t row0 = 0; row0 < rows; row0 += kPanelRows)
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t end = (panel + 1) * kPanelColumns;
      int32_t blocks = first_block.back();
      cell.clear();
      for (int64_t row = row0; row < std::min(rows, row0 + kPanelRows); ++row) {
        const int32_t source = at[row];
        while (at[row] < crow[row + 1] && col[at[row]] < end) ++at[row];
        const int32_t length = at[row] - source;
        if (length) cell.push_back({source, {uint16_t(row - row0), uint16_t(length)}});
        blocks += length;
      }
      sort_by_length(cell, sorted);
      all.insert(all.end(), sorted.begin(), sorted.end());
      first_run.push_back(int32_t(all.size()));
      first_block.push_back(blocks);
    }
  PanelHeader header{int32_t(n), int32_t(k), int32_t(v), crow[rows], int32_t(all.size()), 0, 0, {}};
  std::vector<int32_t> words(size_t(PanelIndex::words_of(header)));
  const PanelIndex index{words.data()};
  index.header() = header;
  std::copy(first_run.begin(), first_run.end(), index.first_run());
  std::copy(first_block.begin(), first_block.end(), index.first_block());
  uint8_t* offset = index.offsets();
  for (size_t i = 0; i < all.size(); ++i) {
    index.sources()[i] = all[i].source;
    index.runs()[i] = all[i].run;
    for (int32_t j = 0; j < all[i].run.length; ++j)
      *offset++ = uint8_t(col[all[i].source + j] % kPanelColumns);
  }
  if (index.columns()) std::copy(col, col + header.blocks, index.columns());
  return words;
}

void pack_panel_values(const PanelIndex& index, const float* values) {
  const PanelHeader& header = index.header();
  const int64_t v = header.v, last = (header.n + v - 1) / v - 1, stored = header.n - last * v;
  float* to = index.values();
  for (int64_t cell = 0; cell < index.cells(); ++cell)
    for (int32_t i = index.first_run()[cell]; i < index.first_run()[cell + 1]; ++i) {
      const PanelRun run = index.runs()[i];
      const int64_t count = run.length * v;
      std::memcpy(to, values + index.sources()[i] * v, size_t(count) * sizeof(float));
      if (cell / index.panels() * kPanelRows + run.row == last)
        for (int64_t j = 0; j < run.length; ++j) std::fill(to + j * v + stored, to + (j + 1) * v, 0.0f);
      to += count;
    }
}

}  // namespace sparsekern
