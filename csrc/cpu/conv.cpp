#include "cpu/conv.h"

#include <algorithm>

#include "cpu/panel_index.h"

namespace sparsekern {

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t strips_of(const ConvArgs& a, int64_t segments, int64_t lanes) {
  return ceil_div(a.batch * segments * a.out_width, lanes);
}

// More than one where a map is so narrow, and the batch so small, that most lanes would idle.
int64_t segments_of(const ConvArgs& a, int64_t lanes) {
  int64_t best = 1, vectors = strips_of(a, 1, lanes) * a.out_height;
  for (int64_t segments = 2; segments <= std::min<int64_t>(a.out_height, 8); ++segments) {
    const int64_t count = strips_of(a, segments, lanes) * ceil_div(a.out_height, segments);
    if (count * 5 < vectors * 4)
      best = segments, vectors = count;  // each segment has edges of its own to copy
  }
  return best;
}

}  // namespace

int64_t ConvArgs::work() const {
  const PanelIndex index{const_cast<int32_t*>(panels)};
  const int64_t positions = batch * out_height * out_width;
  return positions * (int64_t(index.header().blocks) * v + n) + batch * channels * kw * height * width;
}

ConvTiling::ConvTiling(const ConvArgs& a, int64_t width, int64_t most)
    : lanes(width),
      segments(segments_of(a, width)),
      rows(ceil_div(a.out_height, segments)),
      columns(a.out_width),
      strips(strips_of(a, segments, width)),
      tiles_down(ceil_div(rows, most)) {}

ConvPlanes::ConvPlanes(const ConvArgs& a, int64_t tile_rows) : rows(0) {
  std::vector<int64_t> remainders;
  for (int64_t ky = 0; ky < a.kh; ++ky) remainders.push_back(ky * a.dilation_h % a.stride_h);
  std::sort(remainders.begin(), remainders.end());
  remainders.erase(std::unique(remainders.begin(), remainders.end()), remainders.end());
  for (const int64_t remainder : remainders) {
    int64_t high = 0;
    for (int64_t ky = 0; ky < a.kh; ++ky)
      if (ky * a.dilation_h % a.stride_h == remainder) high = ky * a.dilation_h / a.stride_h + tile_rows;
    phases.push_back({remainder, rows, high});
    rows += high;
  }
  of_group = a.kw * rows;
  for (int64_t ky = 0; ky < a.kh; ++ky)
    for (int64_t kx = 0; kx < a.kw; ++kx)
      for (const Phase& phase : phases)
        if (ky * a.dilation_h % a.stride_h == phase.remainder)
          taps.push_back(int32_t(kx * rows + phase.start + ky * a.dilation_h / a.stride_h));
}

namespace {

// Whether one row of a slot is one vector of x. Where channels are dead, they do not lie one step apart. Maps
// that L2 holds are better packed: what a kernel reads again and again then lies in few pages.
bool lies_as_wanted(const ConvArgs& a, const ConvTiling& tiling) {
  constexpr int64_t kFloatsOfL2 = 512 * 1024;
  const PanelIndex index{const_cast<int32_t*>(a.panels)};
  return a.full_rows && a.x_strides.column == 1 && !index.header().is_compact() && tiling.segments == 1 &&
         a.batch * a.channels * a.x_strides.channel > kFloatsOfL2 &&
         a.channels * a.x_strides.channel <= INT32_MAX;
}

}  // namespace

ConvTile::ConvTile(const ConvArgs& args, const ConvTiling& how, int64_t of_channels)
    : a(args), tiling(how), channels(of_channels), row0(0), rows(0), planes(args, 0), in_place(nullptr) {}

ConvTile::~ConvTile() = default;
ConvPlanes::~ConvPlanes() = default;

void ConvTile::move_to(int64_t tile) {
  const int64_t down = tile % tiling.tiles_down, before = rows;
  row0 = tiling.first_row(down);
  rows = tiling.first_row(down + 1) - row0;
  if (rows != before) planes = ConvPlanes(a, rows);
  cut_strip(tile / tiling.tiles_down);
  if (lies_as_wanted(a, tiling))
    in_place = a.x + pieces[0].image * a.x_strides.image + row0 * a.x_strides.row;
  else
    plan_moves();
  if (rows == before) return;
  places.clear();
  for (int64_t channel = 0; channel < channels; ++channel)
    for (const int32_t tap : planes.taps) places.push_back(int32_t(channel * step() + tap * tiling.lanes));
}

void ConvTile::cut_strip(int64_t strip) {
  const int64_t end = a.batch * tiling.segments * tiling.columns;
  pieces.clear();
  for (int64_t lane = 0; lane < tiling.lanes;) {
    const int64_t at = strip * tiling.lanes + lane;
    if (at >= end) break;
    const int64_t slot = at / tiling.columns, column = at % tiling.columns;
    const int64_t count = std::min(tiling.lanes - lane, tiling.columns - column);
    pieces.push_back({lane, count, slot / tiling.segments, slot % tiling.segments * tiling.rows, column});
    lane += count;
  }
}

// The same for every row of the slots, unless they are stretches of a line.
void ConvTile::find_stretches(int64_t kx, int64_t row) {
  stretches_.clear();
  for (const ConvPiece& piece : pieces) {
    const int64_t column =
        (piece.first_row + row) * a.row_step + piece.column * a.stride_w + kx * a.dilation_w - a.pad_left;
    const int64_t low = column < 0 ? ceil_div(-column, a.stride_w) : 0;
    const int64_t inside = column < a.width ? ceil_div(a.width - column, a.stride_w) : 0;
    const int64_t high = std::min(piece.count, inside);
    if (low < high)
      stretches_.push_back({piece.lane + low, high - low, piece.image, piece.first_row,
                            (column + low * a.stride_w) * a.x_strides.column});
  }
}

void ConvTile::plan_moves() {
  zeros.clear(), whole.clear(), parts.clear();
  if (a.x_strides.column != 1) lanes.assign(size_t(planes.of_group * tiling.lanes), -1);
  for (int64_t kx = 0; kx < a.kw; ++kx) {
    find_stretches(kx, row0);
    for (const ConvPlanes::Phase& phase : planes.phases) {
      const int64_t to = (kx * planes.rows + phase.start) * tiling.lanes;
      constexpr int64_t kFewRows = 6;  // of shorter loops the end is mispredicted too often
      const bool at_once = a.line == 0 && phase.rows >= kFewRows;
      if (at_once) add_rows(to, phase.remainder, phase.rows);
      for (int64_t i = 0; !at_once && i < phase.rows; ++i) {
        if (a.line != 0) find_stretches(kx, row0 + i);
        add_rows(to + i * tiling.lanes, i * a.stride_h + phase.remainder, 1);
      }
    }
  }
}

// So many vectors from `to` of the planes on, the first of which is that many rows of x below what the first
// row of outputs sees.
void ConvTile::add_rows(int64_t to, int64_t below, int64_t count) {
  const int64_t width = tiling.lanes;
  int64_t idle = width, first = 0, last = count;  // vectors [first, last) are on rows of x for all stretches
  for (const ConvStretch& stretch : stretches_) {
    const int64_t row = (stretch.first_row + row0) * a.stride_h - a.pad_top + below;
    const int64_t low = row < 0 ? ceil_div(-row, a.stride_h) : 0;
    const int64_t high = row < a.height ? std::min(count, ceil_div(a.height - row, a.stride_h)) : 0;
    idle -= stretch.count, first = std::max(first, low), last = std::min(last, high);
    if (low >= high) continue;
    const int64_t from =
        stretch.image * a.x_strides.image + (row + low * a.stride_h) * a.x_strides.row + stretch.from;
    const int64_t start = to + low * width + stretch.lane;
    if (a.x_strides.column == 1)
      (stretch.count == width ? whole : parts)
          .push_back({int32_t(start), int32_t(stretch.count), from, high - low});
    else
      for (int64_t i = 0; i < high - low; ++i)
        for (int64_t lane = 0; lane < stretch.count; ++lane)
          lanes[size_t(start + i * width + lane)] =
              from + i * row_step() + lane * a.stride_w * a.x_strides.column;
  }
  if (idle > 0 || first >= last) first = last = count;
  if (first > 0) zeros.push_back({int32_t(to), int32_t(width), 0, first});
  if (last < count) zeros.push_back({int32_t(to + last * width), int32_t(width), 0, count - last});
}

namespace {

ConvArgs with_lines_cut(ConvArgs a, int64_t lanes) {
  const int64_t stretches = ceil_div(a.out_width, lanes);
  a.stride_h = 1;
  if (a.batch > stretches) {
    a.height = a.out_height = a.batch;
    a.x_strides.row = a.x_strides.image;
    a.y_strides.row = a.y_strides.image;
    a.batch = 1;
  } else if (stretches > 1) {
    a.line = a.out_width;
    a.row_step = lanes * a.stride_w;
    a.height = a.out_height = stretches;
    a.out_width = lanes;
    a.x_strides.row = 0;
    a.y_strides.row = lanes * a.y_strides.column;
  }
  return a;
}

// Whether a dense map of `positions` fills more vectors by its rows than laid out in a line.
bool is_better_as_line(const ConvArgs& a, int64_t positions, int64_t lanes) {
  const int64_t segments = segments_of(a, lanes);
  const int64_t vectors = strips_of(a, segments, lanes) * ceil_div(a.out_height, segments);
  return a.batch * ceil_div(positions, lanes) < vectors;
}

}  // namespace

ConvArgs with_full_rows(ConvArgs a, int64_t lanes) {
  const auto dense = [&](const MapStrides& s) { return s.row == a.width * s.column; };
  const bool alone = a.kh == 1 && a.kw == 1 && a.stride_h == 1 && a.stride_w == 1 &&
                     a.out_height == a.height && a.out_width == a.width && a.pad_top == 0 &&
                     a.pad_left == 0 && dense(a.x_strides) && dense(a.y_strides);
  const int64_t positions = a.out_height * a.out_width;
  if (alone && positions % lanes == 0) {
    a.height = a.out_height = positions / lanes;
    a.width = a.out_width = lanes;
    a.x_strides.row = lanes * a.x_strides.column;
    a.y_strides.row = lanes * a.y_strides.column;
    a.full_rows = true;
    return a;
  }
  if (alone && is_better_as_line(a, positions, lanes)) {
    a.height = a.out_height = 1;
    a.width = a.out_width = positions;
  }
  const bool line = a.kh == 1 && a.height == 1 && a.out_height == 1 && a.pad_top == 0;
  return line ? with_lines_cut(a, lanes) : a;
}

int64_t conv_panel_groups(int64_t kh, int64_t kw) {
  constexpr int64_t kVectors = 32 * 1024 / 64;  // in L1
  const int64_t rows = kh * kw == 1 ? kPointwiseRows : kTileRows + kh - 1;
  const int64_t fit = kVectors / (kw * rows), countable = kMostPanelColumns / (kh * kw);
  return std::max<int64_t>(1, std::min(fit, countable));
}

}  // namespace sparsekern
