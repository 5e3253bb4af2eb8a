// sparsekern._core: what Python sets up and asks. The products themselves are called by torch's dispatcher
// (op_linear.cpp).
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "cpu/conv.h"
#include "cpu/kernels.h"
#include "cpu/panel_index.h"
#include "op_conv2d.h"
#include "op_linear.h"
#include "op_words.h"
#include "stable_abi.h"

namespace py = pybind11;

namespace sparsekern {
namespace {

py::tuple torch_functions() {
  py::list names;
#define SPARSEKERN_NAME(result, name, arguments) names.append(#name);
  SPARSEKERN_TORCH_FUNCTIONS(SPARSEKERN_NAME)
#undef SPARSEKERN_NAME
  return py::tuple(names);
}

void use_torch(const py::dict& addresses) {
  TorchApi& torch = torch_api();
#define SPARSEKERN_TAKE(result, name, arguments) \
  torch.name = reinterpret_cast<result(*) arguments>(addresses[#name].cast<uintptr_t>());
  SPARSEKERN_TORCH_FUNCTIONS(SPARSEKERN_TAKE)
#undef SPARSEKERN_TAKE
  register_linear();
  register_conv2d();
  register_words();
}

py::tuple isa_names(bool supported_only) {
  py::list names;
  for (const Isa* isa : isas())
    if (!supported_only || isa->supported()) names.append(isa->name);
  return py::tuple(names);
}

py::tuple linear_kernels() {
  py::list names;
  for (const LinearKernel& kernel : best_isa().linear) names.append(kernel.name);
  return py::tuple(names);
}

py::tuple conv_kernels() {
  py::list names;
  for (int i = 0; i < kConvKernels; ++i) names.append(best_isa().conv[i].name);
  return py::tuple(names);
}

py::tuple word_kernel_names(const std::vector<const WordKernel*>& kernels) {
  py::list names;
  for (const WordKernel* kernel : usable(kernels)) names.append(kernel->name);
  return py::tuple(names);
}

using Indices = py::array_t<int32_t, py::array::c_style>;

// The words of an index, checked and made without the GIL.
std::vector<int32_t> index_of(const Indices& crow, const Indices& col, const PanelShape& shape) {
  const int64_t rows = shape.v > 0 ? (shape.n + shape.v - 1) / shape.v : -1;
  if (crow.size() != rows + 1 || col.size() < crow.at(rows))
    throw std::invalid_argument("crow and col do not belong to a weight (" + std::to_string(shape.n) + ", " +
                                std::to_string(shape.k) + ") in blocks (" + std::to_string(shape.v) + ", 1)");
  const py::gil_scoped_release release;
  return make_panel_index(crow.data(), col.data(), shape);
}

py::array_t<int32_t> panel_index(const Indices& crow, const Indices& col, int64_t n, int64_t k, int64_t v) {
  std::vector<int32_t> words = index_of(crow, col, {n, k, v, 1, kPanelColumns, kPanelRows});
  const PanelHeader& header = PanelIndex{words.data()}.header();
  if (!header.has_panels() && !header.is_compact()) words.clear();  // it would say nothing
  return py::array_t<int32_t>(py::ssize_t(words.size()), words.data());
}

py::array_t<int32_t> conv_index(const Indices& crow, const Indices& col, int64_t n, int64_t channels,
                                int64_t kh, int64_t kw, int64_t v) {
  const int64_t taps = kh * kw;
  if (kh < 1 || kw < 1 || taps > kMostPanelColumns)
    throw std::invalid_argument("kernel: expected 1 to " + std::to_string(kMostPanelColumns) + " taps, got " +
                                std::to_string(kh) + " x " + std::to_string(kw));
  const std::vector<int32_t> words =
      index_of(crow, col, {n, channels * taps, v, taps, conv_panel_groups(kh, kw), kConvPanelRows});
  return py::array_t<int32_t>(py::ssize_t(words.size()), words.data());
}

std::string choose_linear(int64_t m, int64_t n, int64_t k, int64_t v) {
  LinearArgs args{};
  args.m = m, args.n = n, args.k = k, args.v = v;
  const int32_t index = 0;  // only asked whether there is one
  if (v <= kPanelHeight) args.panels = &index;
  return current_isa->linear[current_isa->choose_linear(args)].name;
}

double read_gbs(int64_t bytes) {
  const int64_t step = current_isa->fma_loop_flops / 2;  // floats that an iteration of the loop reads
  const size_t floats = size_t(std::max<int64_t>(step, bytes / 4 / step * step));
  const std::vector<float> memory(floats + 16, 1.0f);
  const float* data = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) / 4;
  const int64_t repeats = std::max<int64_t>(1, (int64_t{4} << 20) / int64_t(floats));
  double best = 0.0;
  volatile float keep = 0.0f;
  py::gil_scoped_release release;
  for (int i = 0; i < 20; ++i) {
    const auto start = std::chrono::steady_clock::now();
    keep = keep + current_isa->read_loop(data, floats, repeats);
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, double(floats) * 4 * double(repeats) / took.count());
  }
  return best;
}

double fma_peak_gflops(const std::string& name) {
  const Isa& isa = name.empty() ? *current_isa : isa_by_name(name);
  constexpr int64_t kIterations = 200000;
  double best = 0.0;
  volatile float keep = 0.0f;
  py::gil_scoped_release release;
  for (int i = 0; i < 20; ++i) {
    const auto start = std::chrono::steady_clock::now();
    keep = keep + isa.fma_loop(kIterations);
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, double(isa.fma_loop_flops) * kIterations / took.count());
  }
  return best;
}

}  // namespace
}  // namespace sparsekern

PYBIND11_MODULE(_core, m) {
  using namespace sparsekern;
  current_isa = &best_isa();
  m.doc() = "The C++ half of sparsekern: CPU kernels by ISA, on torch's thread pool.";
  m.attr("PANEL_HEIGHT") = kPanelHeight;
  m.attr("CHOOSE_KERNEL") = kChooseKernel;
  m.attr("LINEAR_KERNELS") = linear_kernels();
  m.attr("CONV_KERNELS") = conv_kernels();
  m.attr("MOST_TAPS") = kMostPanelColumns;
  m.attr("TORCH_FUNCTIONS") = torch_functions();
  m.def("use_torch", use_torch, py::arg("addresses"),
        "Takes the addresses of TORCH_FUNCTIONS by name, and adds the CPU implementations of the ops.");
  m.def("isa", [] { return std::string(current_isa->name); }, "The ISA in use; SPARSEKERN_ISA forces one.");
  m.def(
      "use_isa", [](const std::string& name) { current_isa = &isa_by_name(name); },
      "Changes the ISA for this process.");
  m.def("isas", isa_names, py::arg("supported_only") = true, "Names of the ISAs, best first.");
  m.def("panel_index", panel_index, py::arg("crow"), py::arg("col"), py::arg("n"), py::arg("k"), py::arg("v"),
        "The index over blocks (v, 1): csrc/cpu/panel_index.h. Empty where it would say nothing.");
  m.def("choose_linear", choose_linear, py::arg("m"), py::arg("n"), py::arg("k"), py::arg("v"),
        "The name in LINEAR_KERNELS of the kernel that runs m rows.");
  m.def("conv_index", conv_index, py::arg("crow"), py::arg("col"), py::arg("n"), py::arg("channels"),
        py::arg("kh"), py::arg("kw"), py::arg("v"), "The same for a convolution's flattened weight.");
  m.def(
      "choose_conv2d", [](int64_t v) { return current_isa->conv[choose_conv2d(v)].name; }, py::arg("v"),
      "The name in CONV_KERNELS of the kernel that runs blocks (v, 1).");
  m.def(
      "pair_kernels", [] { return word_kernel_names(pair_kernels()); },
      "Names of the kernels for bfloat16 pairs that this machine and the ISA in use allow, best first.");
  m.def("quad_kernels", [] { return word_kernel_names(quad_kernels()); }, "The same for int8.");
  m.def(
      "choose_pairs", [](int64_t rows) { return choose_word_kernel(pair_kernels(), rows).name; },
      py::arg("m"), "The name in pair_kernels() of the kernel that runs m rows.");
  m.def(
      "choose_quads", [](int64_t rows) { return choose_word_kernel(quad_kernels(), rows).name; },
      py::arg("m"), "The name in quad_kernels() of the kernel that runs m rows.");
  m.def("read_gbs", read_gbs, py::arg("bytes"),
        "Best of 20 runs of reading so many bytes over and over, in GB/s.");
  m.def("fma_peak_gflops", fma_peak_gflops, py::arg("isa") = "",
        "Best of 20 runs of independent FMAs on this thread.");
}
