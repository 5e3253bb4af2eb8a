// Quads in plain C++, for every machine: right, not fast. Compiled for the platform's baseline.
#include <cmath>
#include <cstring>

#include "cpu/half.h"
#include "cpu/unroll.h"
#include "cpu/words.h"

namespace sparsekern {
namespace {

#include "cpu/tasks.inc.h"

bool supported() { return true; }
int64_t tiles(const WordArgs& a) { return tile_count(a.m, 8); }
size_t scratch_floats(const WordArgs&) { return 0; }

float activated(float y, Activation activation) {
  if (activation == Activation::kRelu) return y < 0 ? 0.0f : y;  // NaN stays
  return activation == Activation::kGelu ? 0.5f * y * (1.0f + std::erf(y * 0.70710678f)) : y;
}

void store(const WordArgs& a, int64_t row, int64_t output, int32_t sum) {
  const float y = activated(float(sum) * (a.scales[output] * a.x_scales[row]) + (a.bias ? a.bias[output] : 0),
                            a.activation);
  const int64_t at = row * a.n + output;
  if (a.dtype == Dtype::kFloat32)
    static_cast<float*>(a.y)[at] = y;
  else
    static_cast<uint16_t*>(a.y)[at] = bfloat16_of_float(y);
}

void block_row(const WordArgs& a, int64_t row, int64_t b) {
  const auto* x = reinterpret_cast<const int8_t*>(a.x + row * a.x_stride);
  for (int64_t lane = 0; lane < a.v && b * a.v + lane < a.n; lane += kWordOutputs) {
    int32_t sums[kWordOutputs] = {};
    for (int64_t j = a.crow[b]; j < a.crow[b + 1]; ++j) {
      const auto* w = reinterpret_cast<const int8_t*>(a.values + j * a.v + lane);
      const int8_t* inputs = x + int64_t(a.col[j]) * 4;
      for (int64_t i = 0; i < kWordOutputs; ++i)
        for (int64_t part = 0; part < 4; ++part) sums[i] += int32_t(w[4 * i + part]) * inputs[part];
    }
    const int64_t output = b * a.v + lane, left = a.n - output;
    for (int64_t i = 0; i < kWordOutputs && i < left; ++i) store(a, row, output + i, sums[i]);
  }
}

void run(const WordArgs& a, int64_t begin, int64_t end, float*) {
  const int64_t count = tiles(a);
  const auto cut = [&](int64_t chunk) { return chunk_begin(a, chunk); };
  for_each_tile(a, begin, end, cut, [&](int64_t tile, int64_t first, int64_t last) {
    for (int64_t row = tile_begin(a.m, count, tile); row < tile_begin(a.m, count, tile + 1); ++row)
      for (int64_t b = first; b < last; ++b) block_row(a, row, b);
  });
}

// As words_quantize.inc.h says, without the offset.
void quantize_row(const float* x, int64_t k, uint32_t* words, float* scale) {
  uint32_t most = 0;
  for (int64_t j = 0; j < k; ++j) {
    const uint32_t magnitude = bits_of_float(x[j]) & 0x7fffffff;
    most = magnitude > most ? magnitude : most;
  }
  const float factor = quantize_factor(float_of_bits(most), scale);
  auto* to = reinterpret_cast<int8_t*>(words);
  for (int64_t j = 0; j < (k + 3) / 4 * 4; ++j)
    to[j] = j < k && factor > 0 ? int8_t(std::nearbyint(x[j] * factor)) : int8_t(0);
}

}  // namespace

extern const WordKernel kScalarQuads = {"scalar", nullptr,        supported, 0,
                                        tiles,    scratch_floats, run,       quantize_row};

}  // namespace sparsekern
