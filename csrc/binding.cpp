// sparsekern._core: what Python sets up and asks. The products themselves are called by torch's dispatcher
// (op_linear.cpp).
#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "cpu/kernels.h"
#include "op_linear.h"
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
}

py::tuple isa_names(bool supported_only) {
  py::list names;
  for (const Isa* isa : isas())
    if (!supported_only || isa->supported()) names.append(isa->name);
  return py::tuple(names);
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
  m.attr("PANEL_COLUMNS") = kPanelColumns;
  m.attr("VECTOR") = int64_t{kVector};
  m.attr("UNSTRUCTURED") = int64_t{kUnstructured};
  m.attr("TORCH_FUNCTIONS") = torch_functions();
  m.def("use_torch", use_torch, py::arg("addresses"),
        "Takes the addresses of TORCH_FUNCTIONS by name, and adds the CPU implementation of "
        "sparsekern::cpu_linear.");
  m.def("isa", [] { return std::string(current_isa->name); }, "The ISA in use; SPARSEKERN_ISA forces one.");
  m.def(
      "use_isa", [](const std::string& name) { current_isa = &isa_by_name(name); },
      "Changes the ISA for this process.");
  m.def("isas", isa_names, py::arg("supported_only") = true, "Names of the ISAs, best first.");
  m.def("fma_peak_gflops", fma_peak_gflops, py::arg("isa") = "",
        "Best of 20 runs of independent FMAs on this thread.");
}
