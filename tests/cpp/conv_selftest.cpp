// The convolution kernels of every ISA on buffers of exactly the size they may touch, against plain loops. Built
// with -fsanitize=address,undefined by tests/test_cpp.py, and for aarch64 where an emulator is installed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <random>
#include <vector>

#include "cpu/conv.h"
#include "cpu/kernels.h"
#include "cpu/panel_index.h"

using namespace sparsekern;

namespace {

struct Problem {
  int channels, n, kh, kw, stride, pad, dilation, height, width, batch, v;
  double sparsity;
  bool channels_last;

  int out(int size, int taps) const { return (size + 2 * pad - dilation * (taps - 1) - 1) / stride + 1; }
  int k() const { return channels * kh * kw; }
};

MapStrides strides_of(int64_t channels, int64_t height, int64_t width, bool channels_last) {
  if (channels_last) return {channels * height * width, 1, width * channels, channels};
  return {channels * height * width, height * width, width, 1};
}

struct Data {
  std::vector<float> x, values, bias, residual, y;
  std::vector<double> want, allowed;  // of y: the truth, and what the roundings of the largest sum may cost
  std::vector<int32_t> crow{0}, col;
  std::unique_ptr<int32_t, decltype(&std::free)> index{nullptr, std::free};
  ConvArgs args{};

  explicit Data(const Problem& p) : x(p.batch * p.channels * p.height * p.width), bias(p.n) {
    std::mt19937 random(p.n + 31 * p.v);
    std::bernoulli_distribution alive(1 - p.sparsity);
    std::uniform_real_distribution<float> number(-1, 1);
    for (int row = 0; row < (p.n + p.v - 1) / p.v; ++row) {
      for (int column = 0; column < p.k(); ++column)
        if (alive(random)) col.push_back(column);
      crow.push_back(int(col.size()));
    }
    values.resize(col.size() * p.v);
    y.resize(p.batch * p.n * p.out(p.height, p.kh) * p.out(p.width, p.kw));
    residual.resize(y.size());
    for (auto* all : {&x, &values, &bias, &residual})
      for (float& each : *all) each = number(random);
    const std::vector<int32_t> words =
        make_panel_index(crow.data(), col.data(),
                         {p.n, p.k(), p.v, p.kh * p.kw, conv_panel_groups(p.kh, p.kw), kConvPanelRows});
    index.reset(static_cast<int32_t*>(std::aligned_alloc(64, (words.size() * 4 + 63) / 64 * 64)));
    std::copy(words.begin(), words.end(), index.get());
    fill(p);
    solve(p);
  }

  void fill(const Problem& p) {
    const PanelIndex packed{index.get()};
    if (packed.header().has_panels()) pack_panel_values(packed, values.data());
    args.batch = p.batch, args.channels = p.channels, args.height = p.height, args.width = p.width;
    args.n = p.n, args.out_height = p.out(p.height, p.kh), args.out_width = p.out(p.width, p.kw);
    args.kh = p.kh, args.kw = p.kw, args.stride_h = args.stride_w = p.stride;
    args.pad_top = args.pad_left = p.pad, args.dilation_h = args.dilation_w = p.dilation, args.v = p.v;
    args.x_strides = strides_of(p.channels, p.height, p.width, p.channels_last);
    args.y_strides = strides_of(p.n, args.out_height, args.out_width, p.channels_last);
    args.x = x.data(), args.y = y.data(), args.bias = bias.data(), args.residual = residual.data();
    args.values = values.data(), args.crow = crow.data(), args.panels = index.get();
    args.col = packed.compact() ? packed.compact() : col.data();
  }

  void solve(const Problem& p) {
    want.resize(y.size());
    allowed.assign(y.size(), INFINITY);
    const MapStrides& s = args.y_strides;
    const int step = args.out_height * args.out_width > 10000 ? 23 : 1;  // of large maps some outputs
    for (int image = 0; image < p.batch; ++image)
      for (int output = 0; output < p.n; output += step)
        for (int row = 0; row < args.out_height; ++row)
          for (int column = 0; column < args.out_width; ++column) {
            const auto at = size_t(image * s.image + output * s.channel + row * s.row + column * s.column);
            double size = std::fabs(bias[output]) + std::fabs(residual[at]);
            want[at] = std::max(sum(p, image, output, row, column, &size) + bias[output] + residual[at], 0.0);
            allowed[at] = (p.k() + 3) * 1.2e-7 * size + 1e-30;
          }
  }

  double sum(const Problem& p, int image, int output, int row, int column, double* size) const {
    double found = 0;
    for (int j = crow[output / p.v]; j < crow[output / p.v + 1]; ++j) {
      const int channel = col[j] / (p.kh * p.kw), ky = col[j] / p.kw % p.kh, kx = col[j] % p.kw;
      const int from_row = row * p.stride + ky * p.dilation - p.pad;
      const int from_column = column * p.stride + kx * p.dilation - p.pad;
      if (from_row < 0 || from_row >= p.height || from_column < 0 || from_column >= p.width) continue;
      const MapStrides& s = args.x_strides;
      const double term = double(values[j * p.v + output % p.v]) *
                          x[image * s.image + channel * s.channel + from_row * s.row + from_column * s.column];
      found += term;
      *size += std::fabs(term);
    }
    return found;
  }
};

// Largest error over what is allowed; NaN for an output that was not written.
double error_of(const Data& d) {
  double worst = 0;
  for (size_t at = 0; at < d.y.size(); ++at) {
    const double error = std::fabs(d.y[at] - d.want[at]) / d.allowed[at];
    if (std::isnan(error)) return error;
    worst = std::max(worst, error);
  }
  return worst;
}

int check(const Isa& isa, const Problem& p, Data& d, int kernel_id, int chunks) {
  std::fill(d.y.begin(), d.y.end(), NAN);
  const ConvKernel& kernel = isa.conv[kernel_id];
  d.args.chunks = chunks, d.args.activation = Activation::kRelu;
  void* memory = nullptr;  // exactly as much as is asked for
  if (posix_memalign(&memory, 64, kernel.scratch_floats(d.args) * sizeof(float))) return 1;
  const std::unique_ptr<float, decltype(&std::free)> scratch(static_cast<float*>(memory), std::free);
  for (int64_t task = 0; task < kernel.tiles(d.args) * chunks; ++task)
    kernel.run(d.args, task, task + 1, scratch.get());
  const double error = error_of(d);
  if (error <= 1) return 0;
  std::printf("%s %s channels=%d n=%d %dx%d stride=%d pad=%d dilation=%d %dx%d batch=%d v=%d last=%d: %g times\n",
              isa.name, kernel.name, p.channels, p.n, p.kh, p.kw, p.stride, p.pad, p.dilation, p.height, p.width,
              p.batch, p.v, p.channels_last, error);
  return 1;
}

}  // namespace

int main() {
  constexpr struct {
    int kh, kw, stride, pad, dilation, height, width, batch;
  } kShapes[] = {{1, 1, 1, 0, 1, 4, 8, 1},  {1, 1, 1, 0, 1, 7, 7, 3},  {1, 1, 2, 0, 1, 9, 9, 1},
                 {3, 3, 1, 1, 1, 7, 7, 1},  {3, 3, 1, 1, 1, 14, 14, 2}, {3, 3, 2, 1, 1, 15, 15, 2},
                 {3, 3, 1, 2, 2, 9, 21, 1}, {5, 2, 3, 1, 1, 20, 33, 1}, {7, 7, 2, 3, 1, 21, 30, 1},
                 {3, 1, 1, 4, 1, 1, 1, 5}};
  int passed = 0, failed = 0;
  const auto check_all = [&](const Problem& p, std::initializer_list<int> all_chunks) {
    Data d(p);
    for (const Isa* isa : isas())
      for (int chunks : all_chunks)
        for (int kernel = p.v <= kPanelHeight ? 0 : 1; kernel < kConvKernels && isa->supported(); ++kernel) {
          const int wrong = check(*isa, p, d, kernel, chunks);
          failed += wrong;
          passed += !wrong;
        }
  };
  for (const auto& s : kShapes)
    for (int v : {1, 2, 3, 5, 16})
      for (double sparsity : {0.6, 0.97})
        for (bool last : {false, true})
          check_all({21, 70, s.kh, s.kw, s.stride, s.pad, s.dilation, s.height, s.width, s.batch, v, sparsity, last},
                    {1, 3});
  // A map that is read where it lies, of which a few kernels will do.
  for (int v : {1, 16}) check_all({21, 70, 1, 1, 1, 0, 1, 160, 160, 1, v, 0.5, false}, {1});
  std::printf("best %s: %d passed, %d failed\n", best_isa().name, passed, failed);
  return failed != 0;
}
