// The CPU kernels without Python: every ISA of this machine against sums in double, in buffers of exactly the
// right size, so that AddressSanitizer sees a read or write beyond them. Built natively with sanitizers, and
// for aarch64 under an emulator, by tests/test_cpp.py.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/panel_index.h"

using namespace sparsekern;

namespace {

struct Problem {
  int m, n, k, v;
  double sparsity;
};

struct Data {
  std::vector<float> x, values, bias, y;
  std::vector<double> want, allowed;  // of y: the truth, and what k roundings of the largest sum may cost
  std::vector<int32_t> crow{0}, col;
  std::unique_ptr<int32_t, decltype(&std::free)> panels{nullptr,
                                                        std::free};  // aligned, as a tensor's memory is

  explicit Data(const Problem& p) : x(p.m * p.k), bias(p.n), y(p.m * p.n), want(y.size()), allowed(y.size()) {
    std::mt19937 random(p.m + 31 * p.v);
    std::bernoulli_distribution alive(1 - p.sparsity);
    std::uniform_real_distribution<float> number(-1, 1);
    const int rows = (p.n + p.v - 1) / p.v;
    for (int row = 0; row < rows; ++row) {
      for (int column = 0; column < p.k; ++column)
        if (alive(random)) col.push_back(column);
      crow.push_back(int(col.size()));
    }
    values.resize(col.size() * p.v);
    for (auto* all : {&x, &values, &bias})
      for (float& each : *all) each = number(random);
    index(p);
    solve(p);
  }

  void index(const Problem& p) {
    const std::vector<int32_t> words = make_panel_index(crow.data(), col.data(), {p.n, p.k, p.v, 1, kPanelColumns, kPanelRows});
    panels.reset(static_cast<int32_t*>(std::aligned_alloc(64, words.size() * sizeof(int32_t))));
    std::copy(words.begin(), words.end(), panels.get());
    if (p.v <= kPanelHeight) pack_panel_values(PanelIndex{panels.get()}, values.data());
  }

  void solve(const Problem& p) {
    for (int row = 0; row < p.m; ++row)
      for (int output = 0; output < p.n; ++output) {
        double sum = bias[output], size = std::fabs(sum);
        for (int j = crow[output / p.v]; j < crow[output / p.v + 1]; ++j) {
          const double term = double(values[j * p.v + output % p.v]) * x[row * p.k + col[j]];
          sum += term;
          size += std::fabs(term);
        }
        want[row * p.n + output] = sum;
        allowed[row * p.n + output] = std::max((p.k + 2) * 1.2e-7 * size, 1e-30);
      }
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
  LinearArgs args{d.x.data(),
                  p.k,
                  d.values.data(),
                  d.crow.data(),
                  d.col.data(),
                  nullptr,
                  d.bias.data(),
                  d.y.data(),
                  p.m,
                  p.n,
                  p.k,
                  p.v,
                  chunks,
                  Activation::kNone};
  use_index(args, {d.panels.get()});
  const LinearKernel& kernel = isa.linear[kernel_id];
  if (!kernel.takes(args)) return 0;
  void* memory = nullptr;  // exactly as much as is asked for
  if (posix_memalign(&memory, 64, kernel.scratch_floats(args) * sizeof(float))) return 1;
  const std::unique_ptr<float, decltype(&std::free)> scratch(static_cast<float*>(memory), std::free);
  for (int64_t task = 0; task < kernel.tiles(args) * chunks; ++task)
    kernel.run(args, task, task + 1, scratch.get());
  const double error = error_of(d);
  if (error <= 1) return 0;
  std::printf("%s %s m=%d n=%d k=%d v=%d sparsity=%g chunks=%d: %g times the allowed error\n", isa.name,
              kernel.name, p.m, p.n, p.k, p.v, p.sparsity, chunks, error);
  return 1;
}

}  // namespace

int main() {
  int passed = 0, failed = 0;
  for (int v : {1, 2, 3, 5, 8, 16, 24, 32, 70})
    for (int m : {1, 2, 4, 5, 9, 17, 70})
      for (double sparsity : {0.0, 0.9, 1.0}) {
        const Problem p{m, 75, 130, v, sparsity};
        Data d(p);
        for (const Isa* isa : isas())
          for (int chunks : {1, 3})
            for (int kernel = 0; kernel < kLinearKernels && isa->supported(); ++kernel) {
              const int wrong = check(*isa, p, d, kernel, chunks);
              failed += wrong;
              passed += !wrong;
            }
      }
  std::printf("best %s: %d passed, %d failed\n", best_isa().name, passed, failed);
  return failed != 0;
}
