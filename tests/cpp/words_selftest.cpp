// The CPU kernels for words of inputs, as kernels_selftest.cpp: against sums in double, in buffers of exactly
// the right size.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "cpu/half.h"
#include "cpu/words.h"

using namespace sparsekern;

namespace {

struct Problem {
  int m, n, k, v;
  double sparsity;
};

// Numbers are bfloat16; what lies beyond the last input is NaN in the weights, zero in x.
struct Data {
  std::vector<uint16_t> x, values, y;
  std::vector<float> bias;
  std::vector<int32_t> crow{0}, col;
  int words;

  explicit Data(const Problem& p) : y(p.m * p.n), bias(p.n), words((p.k + 1) / 2) {
    std::mt19937 random(p.m + 31 * p.v);
    std::bernoulli_distribution alive(1 - p.sparsity);
    std::uniform_real_distribution<float> number(-1, 1);
    for (int row = 0; row < (p.n + p.v - 1) / p.v; ++row) {
      for (int column = 0; column < words; ++column)
        if (alive(random)) col.push_back(column);
      crow.push_back(int(col.size()));
    }
    x.resize(p.m * words * 2);
    values.resize(col.size() * p.v * 2);
    for (auto* all : {&x, &values})
      for (uint16_t& each : *all) each = bfloat16_of_float(number(random));
    for (float& each : bias) each = number(random);
    if (p.k % 2 == 0) return;
    for (int row = 1; row <= p.m; ++row) x[row * words * 2 - 1] = 0;
    for (size_t j = 0; j < col.size(); ++j)
      if (col[j] == words - 1)
        for (int i = 0; i < p.v; ++i) values[(j * p.v + i) * 2 + 1] = 0x7fc0;
  }
};

// Largest error over what k roundings of the largest possible sum, and one of the output, may cost.
double error_of(const Problem& p, const Data& d) {
  double worst = 0;
  for (int row = 0; row < p.m; ++row)
    for (int output = 0; output < p.n; ++output) {
      double want = d.bias[output], size = std::fabs(want);
      for (int j = d.crow[output / p.v]; j < d.crow[output / p.v + 1]; ++j)
        for (int i = 0; i < 2 && 2 * d.col[j] + i < p.k; ++i) {
          const double term = double(float_of_bfloat16(d.values[(j * p.v + output % p.v) * 2 + i])) *
                              float_of_bfloat16(d.x[(row * d.words + d.col[j]) * 2 + i]);
          want += term;
          size += std::fabs(term);
        }
      const double got = float_of_bfloat16(d.y[row * p.n + output]);
      const double allowed = (p.k + 2) * 1.2e-7 * size + std::fabs(want) / 256;
      if (!(std::fabs(got - want) <= allowed)) worst = std::max(worst, std::fabs(got - want) / allowed);
      if (std::isnan(got)) return got;
    }
  return worst;
}

int check_pairs(const WordKernel& kernel, const Problem& p, int chunks) {
  Data d(p);
  WordArgs args{};
  args.x = reinterpret_cast<uint32_t*>(d.x.data()), args.x_stride = args.words = d.words;
  args.values = reinterpret_cast<uint32_t*>(d.values.data());
  args.crow = d.crow.data(), args.col = d.col.data(), args.bias = d.bias.data();
  args.y = d.y.data(), args.dtype = Dtype::kBfloat16;
  args.m = p.m, args.n = p.n, args.v = p.v, args.chunks = chunks;
  args.last_word = p.k % 2 ? 0xffffu : ~0u;
  const size_t bytes = (kernel.scratch_floats(args) * sizeof(float) + 127) / 64 * 64;
  const std::unique_ptr<float, decltype(&std::free)> scratch(
      static_cast<float*>(std::aligned_alloc(64, bytes)), std::free);
  for (int64_t task = 0; task < kernel.tiles(args) * chunks; ++task)
    kernel.run(args, task, task + 1, scratch.get());
  const double error = error_of(p, d);
  if (error <= 1) return 0;
  std::printf("%s m=%d n=%d k=%d v=%d sparsity=%g chunks=%d: %g times the allowed error\n", kernel.name, p.m,
              p.n, p.k, p.v, p.sparsity, chunks, error);
  return 1;
}

// The same for quads: sums are exact, so but for the scales' roundings the outputs are too. Weights beyond
// the last input are numbers like the others.
int check_quads(const WordKernel& kernel, const Problem& p, int chunks) {
  const int words = (p.k + 3) / 4;
  std::mt19937 random(p.m + 31 * p.v);
  std::bernoulli_distribution alive(1 - p.sparsity);
  std::uniform_real_distribution<float> number(-1, 1);
  std::vector<int32_t> crow{0}, col;
  for (int row = 0; row < (p.n + p.v - 1) / p.v; ++row) {
    for (int column = 0; column < words; ++column)
      if (alive(random)) col.push_back(column);
    crow.push_back(int(col.size()));
  }
  std::vector<int8_t> values(col.size() * p.v * 4);
  for (int8_t& each : values) each = int8_t(127 * number(random));
  std::vector<float> x(p.m * p.k), scales(p.n, 0.5f), x_scales(p.m), unused(p.m), y(p.m * p.n);
  for (float& each : x) each = number(random);
  std::vector<uint32_t> own(p.m * words), plain(p.m * words);
  for (int row = 0; row < p.m; ++row) {
    kernel.quantize(&x[row * p.k], p.k, &own[row * words], &x_scales[row]);
    quad_kernels().back()->quantize(&x[row * p.k], p.k, &plain[row * words], &unused[row]);
  }
  WordArgs args{};
  args.x = own.data(), args.x_stride = args.words = words, args.x_scales = x_scales.data();
  args.values = reinterpret_cast<uint32_t*>(values.data()), args.scales = scales.data();
  args.crow = crow.data(), args.col = col.data(), args.y = y.data(), args.dtype = Dtype::kFloat32;
  args.m = p.m, args.n = p.n, args.v = p.v, args.chunks = chunks, args.last_word = ~0u;
  const size_t bytes = (kernel.scratch_floats(args) * sizeof(float) + 127) / 64 * 64;
  const std::unique_ptr<float, decltype(&std::free)> scratch(
      static_cast<float*>(std::aligned_alloc(64, bytes)), std::free);
  for (int64_t task = 0; task < kernel.tiles(args) * chunks; ++task)
    kernel.run(args, task, task + 1, scratch.get());
  const auto* q = reinterpret_cast<const int8_t*>(plain.data());
  for (int row = 0; row < p.m; ++row)
    for (int output = 0; output < p.n; ++output) {
      int64_t sum = 0;
      for (int j = crow[output / p.v]; j < crow[output / p.v + 1]; ++j)
        for (int i = 0; i < 4; ++i)
          sum += int64_t(values[(j * p.v + output % p.v) * 4 + i]) * q[(row * words + col[j]) * 4 + i];
      const double want = double(sum) * 0.5 * x_scales[row];
      if (std::fabs(y[row * p.n + output] - want) <= 4e-7 * std::fabs(want) && x_scales[row] == unused[row])
        continue;
      std::printf("%s m=%d n=%d k=%d v=%d sparsity=%g chunks=%d: %g instead of %g\n", kernel.name, p.m, p.n,
                  p.k, p.v, p.sparsity, chunks, y[row * p.n + output], want);
      return 1;
    }
  return 0;
}

template <class Check>
void check_all(const std::vector<const WordKernel*>& kernels, Check check, int& passed, int& failed) {
  for (const WordKernel* kernel : kernels) {
    if (!kernel->supported()) continue;
    for (int v : {16, 32, 48})
      for (int k : {1, 77, 130})
        for (int m : {1, 2, 5, 14, 16, 17, 70, 150})
          for (double sparsity : {0.0, 0.9, 1.0})
            for (int chunks : {1, 3}) {
              const int wrong = check(*kernel, Problem{m, 75, k, v, sparsity}, chunks);
              failed += wrong;
              passed += !wrong;
            }
  }
}

}  // namespace

int main() {
  int passed = 0, failed = 0;
  check_all(pair_kernels(), check_pairs, passed, failed);
  check_all(quad_kernels(), check_quads, passed, failed);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
