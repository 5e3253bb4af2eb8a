// One kernel call for valgrind to count: `count OP KERNEL M N K V` on random data, the same in every run.
// Compiled by counts.py against the csrc of each revision, with -DSPARSEKERN_COUNTED=kAvx2 for the ISA.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/panel_index.h"

namespace sparsekern {
extern const Isa SPARSEKERN_COUNTED;
}

using namespace sparsekern;

// What `--toggle-collect` names: nothing else is counted.
extern "C" __attribute__((noinline)) void counted_forward(const LinearKernel& kernel, const LinearArgs& args,
                                                          float* scratch) {
  kernel.run(args, 0, kernel.tiles(args), scratch);
}

extern "C" __attribute__((noinline)) void counted_gradient(const LinearGradKernel& kernel,
                                                           const LinearGradArgs& args, float* scratch) {
  kernel.run(args, 0, kernel.tiles(args), scratch);
}

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const std::string op = argv[1], wanted = argv[2];
  const int64_t m = atoll(argv[3]), n = atoll(argv[4]), k = atoll(argv[5]), v = atoll(argv[6]);
  std::mt19937 random(1);
  // Not the library's distributions: what they draw is not written down anywhere.
  const auto number = [&random] { return float(random() % 2000) / 1000.0f - 1.0f; };
  std::vector<int32_t> crow{0}, col;
  for (int64_t row = 0; row < (n + v - 1) / v; ++row) {
    for (int64_t column = 0; column < k; ++column)
      if (random() % 10 == 0) col.push_back(int32_t(column));
    crow.push_back(int32_t(col.size()));
  }
  std::vector<float> x(m * k), grad(m * n), values(col.size() * v), bias(n), y(std::max(m * n, m * k));
  y.resize(std::max(y.size(), values.size()));
  for (auto* all : {&x, &grad, &values, &bias}) std::generate(all->begin(), all->end(), number);
  const std::vector<int32_t> words =
      make_panel_index(crow.data(), col.data(), {n, k, v, 1, kPanelColumns, kPanelRows});
  auto* index = static_cast<int32_t*>(std::aligned_alloc(64, (words.size() * 4 + 63) / 64 * 64));
  std::copy(words.begin(), words.end(), index);
  const PanelIndex packed{index};
  if (packed.header().has_panels()) pack_panel_values(packed, values.data());

  const Isa& isa = SPARSEKERN_COUNTED;
  const auto scratch = [](size_t floats) {
    return static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 127) / 64 * 64));
  };
  if (op == "linear") {
    LinearArgs args{};
    args.x = x.data(), args.x_stride = k, args.values = values.data(), args.crow = crow.data();
    args.col = col.data(), args.bias = bias.data(), args.y = y.data();
    args.m = m, args.n = n, args.k = k, args.v = v, args.chunks = 1, args.activation = Activation::kNone;
    use_index(args, packed);
    for (const LinearKernel& kernel : isa.linear)
      if (wanted == kernel.name && kernel.takes(args)) {
        counted_forward(kernel, args, scratch(kernel.scratch_floats(args)));
        return 0;
      }
  } else {
    LinearGradArgs args{};
    args.grad = grad.data(), args.grad_stride = n, args.x = x.data(), args.x_stride = k;
    args.values = values.data(), args.crow = crow.data(), args.col = col.data(), args.out = y.data();
    args.m = m, args.n = n, args.k = k, args.v = v, args.chunks = 1;
    const bool panels = wanted == "panels";
    if (panels && packed.header().has_panels()) args.panels = index;
    const LinearGradKernel& kernel = (op == "grad_input" ? isa.grad_input : isa.grad_values)[panels];
    if (panels == (args.panels != nullptr)) {
      counted_gradient(kernel, args, scratch(kernel.scratch_floats(args)));
      return 0;
    }
  }
  std::fprintf(stderr, "no kernel %s of %s takes these sizes\n", wanted.c_str(), op.c_str());
  return 3;
}
