// How lanes and taps of a product with words lie in planes. Compiled for the platform's baseline.
#include "cpu/words_planes.h"

#include <algorithm>
#include <stdexcept>

namespace sparsekern {
namespace {

// Lanes from one row of outputs to the next, or rows of lanes from one image to the next.
int64_t spacing(int64_t size, int64_t outputs, int64_t taps, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t behind = (outputs - 1) * stride + (taps - 1) * dilation + 1 - pad - size;  // of padding
  return std::max((size + std::max(pad, behind) + stride - 1) / stride, outputs);
}

}  // namespace

WordPlanes::WordPlanes(const WordArgs& a)
    : map(a.map ? *a.map : WordMap{1, 1, a.words, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1}),
      x(a.x),
      position(a.map ? map.words : a.x_stride),
      rows(spacing(map.height, map.out_height, map.kh, map.stride_h, map.pad_top, map.dilation_h)),
      pitch(spacing(map.width, map.out_width, map.kw, map.stride_w, map.pad_left, map.dilation_w)),
      reach(0) {
  images = a.m / (map.out_height * map.out_width);
  lanes = ((images - 1) * rows + map.out_height - 1) * pitch + map.out_width;
  for (int64_t tap = 0; tap < map.kh * map.kw; ++tap) {
    const int64_t down = tap / map.kw * map.dilation_h, across = tap % map.kw * map.dilation_w;
    const Phase wanted{down % map.stride_h, across % map.stride_w};
    size_t phase = 0;
    while (phase < phases.size() &&
           (phases[phase].down != wanted.down || phases[phase].across != wanted.across))
      ++phase;
    if (phase == phases.size()) phases.push_back(wanted);
    taps.push_back({int64_t(phase), down / map.stride_h * pitch + across / map.stride_w});
    reach = std::max(reach, taps.back().shift);
  }
}

WordPlanes::~WordPlanes() = default;

void WordPlanes::places(const int32_t* col, int64_t columns, int64_t length, int32_t* to) const {
  if (taps.size() == 1) {
    for (int64_t j = 0; j < columns; ++j) to[j] = col[j] * int32_t(length);
    return;
  }
  std::vector<int64_t> starts;  // what is added to the column's number of planes
  for (size_t tap = 0; tap < taps.size(); ++tap)
    starts.push_back((taps[tap].phase - int64_t(tap)) * map.words * length + taps[tap].shift);
  const double share = 1.0 / double(map.words);
  for (int64_t j = 0; j < columns; ++j)  // a division would take several times as long
    to[j] = int32_t(starts[size_t((col[j] + 0.5) * share)] + col[j] * length);
}

void WordPlanes::sources(const Phase& phase, int64_t lane, const uint32_t* (&from)[kWordOutputs]) const {
  int64_t column = lane % pitch, row = lane / pitch % rows, image = lane / pitch / rows;
  for (int64_t i = 0; i < kWordOutputs; ++row, column = 0) {
    if (row == rows) row = 0, ++image;
    const int64_t stop = std::min(kWordOutputs, i + pitch - column);
    const int64_t down = row * map.stride_h + phase.down - map.pad_top;
    const bool inside = image < images && down >= 0 && down < map.height;
    const uint32_t* line = inside ? x + (image * map.height + down) * map.width * position : nullptr;
    for (int64_t across = column * map.stride_w + phase.across - map.pad_left; i < stop;
         ++i, across += map.stride_w)
      from[i] = inside && across >= 0 && across < map.width ? line + across * position : nullptr;
  }
}

void WordPlanes::outputs(int64_t lane, int64_t count, int64_t* rows_of_y) const {
  int64_t column = lane % pitch, row = lane / pitch % rows, image = lane / pitch / rows;
  for (int64_t i = 0; i < count; ++i) {
    const bool real = image < images && row < map.out_height && column < map.out_width;
    rows_of_y[i] = real ? (image * map.out_height + row) * map.out_width + column : -1;
    if (++column == pitch) column = 0, ++row;
    if (row == rows) row = 0, ++image;
  }
}

WordTiling::WordTiling(const WordArgs& a, const WordPlanes& planes) {
  constexpr int64_t kPlaneWords = 256 * 1024;                      // 1 MB, an L2 of today
  const int64_t lanes = std::max<int64_t>(512, 4 * planes.reach);  // more are few tiles for many threads
  const int64_t cached = kPlaneWords / std::max<int64_t>(planes.count(), 1) - planes.reach;
  vectors = (planes.lanes + kWordOutputs - 1) / kWordOutputs;
  most = std::clamp<int64_t>(std::min(cached, a.map ? lanes : 128) / kWordOutputs, 1, vectors);
  length = planes.length(most * kWordOutputs);
  if (planes.count() * length > INT32_MAX)
    throw std::invalid_argument("kernel: expected taps that are not so far apart in so many channels");
}

}  // namespace sparsekern
