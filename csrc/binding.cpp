// sparsekern._core: raw addresses and sizes in, no torch headers. Python has validated what it passes
// (formats/, ops/).
#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "cpu/kernels.h"
#include "parallel.h"

namespace py = pybind11;

namespace sparsekern {
namespace {

ThreadPool pool;

// Set once at import, from SPARSEKERN_ISA or by detection; tests and benchmarks change it through use_isa.
const Isa* current = nullptr;

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Enough tasks that torch's even split of them keeps every thread busy to the end, no more than that: each
// task packs its tile of x anew.
int64_t chunks_for(int64_t tiles, int64_t threads) {
  if (threads == 1 || tiles >= 8 * threads) return 1;
  int64_t chunks = 1;
  while (tiles * chunks % threads != 0) ++chunks;
  return chunks;
}

template <LinearKernel Isa::* member>
void linear(uintptr_t x, int64_t x_stride, uintptr_t values, uintptr_t crow, uintptr_t col, uintptr_t panels,
            uintptr_t bias, uintptr_t y, int64_t m, int64_t n, int64_t k, int64_t v) {
  LinearArgs args{pointer<const float>(x),
                  x_stride,
                  pointer<const float>(values),
                  pointer<const int32_t>(crow),
                  pointer<const int32_t>(col),
                  pointer<const int32_t>(panels),
                  pointer<const float>(bias),
                  pointer<float>(y),
                  m,
                  n,
                  k,
                  v,
                  1};
  if (m == 0 || n == 0) return;
  const LinearKernel& kernel = current->*member;
  py::gil_scoped_release release;
  const int64_t tiles = kernel.tiles(args);
  args.chunks = chunks_for(tiles, pool.threads());
  const size_t floats = kernel.scratch_floats(args);
  pool.run(tiles * args.chunks, [&](int64_t begin, int64_t end) {
    kernel.run(args, begin, end, Scratch::of_this_thread().floats(floats));
  });
}

py::tuple isa_names(bool supported_only) {
  py::list names;
  for (const Isa* isa : isas())
    if (!supported_only || isa->supported()) names.append(isa->name);
  return py::tuple(names);
}

double fma_peak_gflops(const std::string& name) {
  const Isa& isa = name.empty() ? *current : isa_by_name(name);
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
  current = &best_isa();
  m.doc() = "The C++ half of sparsekern: CPU kernels by ISA, on torch's thread pool.";
  m.attr("PANEL_COLUMNS") = kPanelColumns;
  m.def(
      "use_thread_pool", [](uintptr_t run, uintptr_t count) { pool.use(run, count); },
      py::arg("parallel_for"), py::arg("get_num_threads"),
      "Addresses of torch_parallel_for and torch_get_num_threads.");
  m.def("isa", [] { return std::string(current->name); }, "The ISA in use; SPARSEKERN_ISA forces one.");
  m.def(
      "use_isa", [](const std::string& name) { current = &isa_by_name(name); },
      "Changes the ISA for this process.");
  m.def("isas", isa_names, py::arg("supported_only") = true, "Names of the ISAs, best first.");
  m.def("fma_peak_gflops", fma_peak_gflops, py::arg("isa") = "",
        "Best of 20 runs of independent FMAs on this thread.");
  m.def("vector_linear", linear<&Isa::vector_linear>, "Linear for blocks (v, 1).");
  m.def("unstructured_linear", linear<&Isa::unstructured_linear>, "Linear for single weights.");
}
