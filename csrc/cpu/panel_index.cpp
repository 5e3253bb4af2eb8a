#include "cpu/panel_index.h"

#include <algorithm>
#include <numeric>
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
  int32_t begin[kMostPanelColumns + 2] = {};
  for (const Run& each : runs) ++begin[each.run.length + 1];
  for (int64_t length = 0; length <= kMostPanelColumns; ++length) begin[length + 1] += begin[length];
  sorted.resize(runs.size());
  for (const Run& each : runs) sorted[begin[each.run.length]++] = each;
}

// They were checked when the weight was made, and may have been written since: a kernel would read anywhere.
void check_indices(const int32_t* crow, const int32_t* col, int64_t rows, int64_t k) {
  for (int64_t row = 0; row < rows; ++row)
    if (crow[row] < 0 || crow[row + 1] < crow[row])
      throw std::invalid_argument("crow: expected to rise from 0, got " + std::to_string(crow[row]) +
                                  " and then " + std::to_string(crow[row + 1]));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = crow[row]; j < crow[row + 1]; ++j) {
      if (col[j] < 0 || col[j] >= k)
        throw std::invalid_argument("col: expected in [0, " + std::to_string(k) + "), got " +
                                    std::to_string(col[j]));
      if (j > crow[row] && col[j] <= col[j - 1])
        throw std::invalid_argument("col: expected to rise within a block row, got " +
                                    std::to_string(col[j - 1]) + " and then " + std::to_string(col[j]));
    }
}

// The groups with a nonzero, rising; all of them where it would not pay to leave the few dead ones out.
std::vector<int32_t> live_groups(const int32_t* col, int64_t blocks, const PanelShape& shape) {
  std::vector<char> alive(size_t(shape.k / shape.taps));
  if (shape.taps == 1)  // a division for each block would take longer than all else
    for (int64_t j = 0; j < blocks; ++j) alive[size_t(col[j])] = 1;
  else
    for (int64_t j = 0; j < blocks; ++j) alive[size_t(col[j] / shape.taps)] = 1;
  std::vector<int32_t> live;
  for (size_t group = 0; group < alive.size(); ++group)
    if (alive[group]) live.push_back(int32_t(group));
  if (16 * live.size() > 15 * alive.size()) {
    live.resize(alive.size());
    std::iota(live.begin(), live.end(), 0);
  }
  if (live.empty() && !alive.empty()) live.push_back(0);  // so that there is a panel
  return live;
}

// Of every column the one among those of live groups; of dead ones nothing that is ever read.
std::vector<int32_t> compact_columns(const std::vector<int32_t>& live, const PanelShape& shape) {
  std::vector<int32_t> compact(size_t(shape.k));
  for (size_t i = 0; i < live.size(); ++i)
    for (int64_t tap = 0; tap < shape.taps; ++tap)
      compact[size_t(live[i] * shape.taps + tap)] = int32_t(int64_t(i) * shape.taps + tap);
  return compact;
}

// Runs and blocks of all cells; `columns` are those of the blocks, compact.
struct Runs {
  std::vector<int32_t> first_run{0}, first_block{0};
  std::vector<Run> all;

  Runs(const int32_t* crow, const int32_t* columns, const PanelShape& shape, int64_t panels) {
    const int64_t rows = (shape.n + shape.v - 1) / shape.v, wide = shape.panel_groups * shape.taps;
    std::vector<Run> cell, sorted;
    std::vector<int32_t> at(crow, crow + rows);  // of each block row: the first block not yet in a run
    for (int64_t row0 = 0; row0 < rows; row0 += shape.panel_rows)
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t end = (panel + 1) * wide;
        int32_t blocks = first_block.back();
        cell.clear();
        for (int64_t row = row0; row < std::min(rows, row0 + shape.panel_rows); ++row) {
          const int32_t source = at[row];
          while (at[row] < crow[row + 1] && columns[at[row]] < end) ++at[row];
          const int32_t length = at[row] - source;
          if (length) cell.push_back({source, {uint16_t(row - row0), uint16_t(length)}});
          blocks += length;
        }
        sort_by_length(cell, sorted);
        all.insert(all.end(), sorted.begin(), sorted.end());
        first_run.push_back(int32_t(all.size()));
        first_block.push_back(blocks);
      }
  }
};

}  // namespace

std::vector<int32_t> make_panel_index(const int32_t* crow, const int32_t* col, const PanelShape& shape) {
  const int64_t rows = (shape.n + shape.v - 1) / shape.v, blocks = crow[rows];
  check_indices(crow, col, rows, shape.k);
  const std::vector<int32_t> live = live_groups(col, blocks, shape);
  std::vector<int32_t> renumbered;
  const int32_t* columns = col;
  if (int64_t(live.size()) != shape.k / shape.taps) {
    const std::vector<int32_t> compact = compact_columns(live, shape);
    for (int64_t j = 0; j < blocks; ++j) renumbered.push_back(compact[size_t(col[j])]);
    columns = renumbered.data();
  }
  PanelHeader header{int32_t(shape.n),
                     int32_t(shape.k),
                     int32_t(shape.v),
                     int32_t(blocks),
                     0,
                     0,
                     0,
                     int32_t(shape.taps),
                     int32_t(shape.panel_groups),
                     int32_t(live.size()),
                     int32_t(shape.panel_rows),
                     {}};
  const Runs runs(crow, columns, shape, header.has_panels() ? PanelIndex::panels_of(header) : 0);
  header.runs = int32_t(runs.all.size());
  std::vector<int32_t> words(size_t(PanelIndex::words_of(header)));
  const PanelIndex index{words.data()};
  index.header() = header;
  std::copy(live.begin(), live.end(), index.live());
  if (index.compact()) std::copy(columns, columns + blocks, index.compact());
  if (index.columns()) std::copy(col, col + blocks, index.columns());
  if (!header.has_panels()) return words;
  std::copy(runs.first_run.begin(), runs.first_run.end(), index.first_run());
  std::copy(runs.first_block.begin(), runs.first_block.end(), index.first_block());
  uint8_t* offset = index.offsets();
  for (int64_t cell = 0; cell < index.cells(); ++cell) {
    const int32_t begin = int32_t(cell % index.panels() * index.panel_columns());
    for (int32_t i = runs.first_run[size_t(cell)]; i < runs.first_run[size_t(cell + 1)]; ++i) {
      const Run& each = runs.all[size_t(i)];
      index.sources()[i] = each.source;
      index.runs()[i] = each.run;
      for (int32_t j = 0; j < each.run.length; ++j) *offset++ = uint8_t(columns[each.source + j] - begin);
    }
  }
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
      if (cell / index.panels() * header.panel_rows + run.row == last)
        for (int64_t j = 0; j < run.length; ++j) std::fill(to + j * v + stored, to + (j + 1) * v, 0.0f);
      to += count;
    }
}

}  // namespace sparsekern
