#include "op_linear.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "cpu/panel_index.h"
#include "op_copy.h"
#include "op_shared.h"

namespace sparsekern {

const Isa* current_isa = nullptr;

namespace {

// What a kernel reads without looking: that there is as much of it, and of the kind, as it takes for granted.
// What the indices say was checked when the weight was made.
void check_weight(const Tensor& values, const Tensor& crow, const Tensor& col, const Tensor& index, int64_t n,
                  int64_t k) {
  if (n < 0 || k < 0)
    throw std::invalid_argument("n and k: expected at least 0, got " + std::to_string(n) + " and " +
                                std::to_string(k));
  check_blocks(values, crow, col, index);
  const int64_t v = values.sizes()[1], blocks = values.sizes()[0];
  const bool indexed =
      index.numel() == 0 || is_index_of(index, {n, k, v, 1, kPanelColumns, kPanelRows}, blocks);
  if (crow.numel() != (n + v - 1) / v + 1 || col.numel() != blocks || !indexed)
    throw std::invalid_argument("crow, col and index do not belong to values " + words_of_shape(values) +
                                " of a weight (" + std::to_string(n) + ", " + std::to_string(k) + ")");
}

bool has_panels(const Tensor& index) { return index.numel() && index.data<PanelHeader>()->has_panels(); }

const LinearKernel& kernel_of(int64_t id, const LinearArgs& args) {
  if (id == kChooseKernel) return current_isa->linear[current_isa->choose_linear(args)];
  if (id < 0 || id >= kLinearKernels || !current_isa->linear[id].takes(args))
    throw std::invalid_argument("kernel: expected -1 (choose) or the number of a kernel that takes blocks (" +
                                std::to_string(args.v) + ", 1), got " + std::to_string(id));
  return current_isa->linear[id];
}

// Arguments in the order of the schema, which is in kernels/cpu.py.
void cpu_linear(StableValue* stack, uint64_t, uint64_t) {
  const Tensor x(stack[0]), values(stack[1]), bias(Tensor::unwrap(stack[2])), crow(stack[3]), col(stack[4]),
      index(stack[5]);
  const int64_t n = int64_t(stack[6]), k = int64_t(stack[7]), id = int64_t(stack[8]), act = int64_t(stack[9]);
  check("x", x, k, values, n, k);
  if (bias.defined()) check_bias(bias, values, n);
  check_weight(values, crow, col, index, n, k);
  const Activation activation = activation_of(act);
  const Rows rows(x, k);
  LinearArgs args{rows.data,
                  rows.stride,
                  nullptr,
                  crow.data<int32_t>(),
                  col.data<int32_t>(),
                  nullptr,
                  nullptr,
                  nullptr,
                  rows.count,
                  n,
                  k,
                  values.sizes()[1],
                  1,
                  activation};
  if (index.numel()) use_index(args, {const_cast<int32_t*>(index.data<int32_t>())});
  const LinearKernel& kernel = kernel_of(id, args);
  std::optional<Rows> terms;
  if (bias.defined()) args.bias = terms.emplace(bias, n).data;
  Tensor y(reinterpret_cast<StableValue>(empty_like_rows(x, n)));
  const Sums sums(y, args.m, n);
  args.y = sums.data();
  if (args.m != 0 && n != 0) run_on_values(kernel, args, values);
  sums.write();
  stack[0] = y.release();
}

// The gradient of the input, (..., k): arguments are grad (..., n), values, crow, col, index, n, k.
void cpu_linear_grad_input(StableValue* stack, uint64_t, uint64_t) {
  const Tensor grad(stack[0]), values(stack[1]), crow(stack[2]), col(stack[3]), index(stack[4]);
  const int64_t n = int64_t(stack[5]), k = int64_t(stack[6]);
  check("grad", grad, n, values, n, k);
  check_weight(values, crow, col, index, n, k);
  const Rows ups(grad, n);
  Tensor out(reinterpret_cast<StableValue>(empty_like_rows(grad, k)));
  const Sums sums(out, ups.count, k);
  LinearGradArgs args{};
  args.grad = ups.data, args.grad_stride = ups.stride, args.out = sums.data();
  args.crow = crow.data<int32_t>(), args.col = col.data<int32_t>();
  args.m = ups.count, args.n = n, args.k = k, args.v = values.sizes()[1];
  if (args.m == 0 || k == 0) {
    // nothing to compute
  } else if (has_panels(index)) {
    args.panels = index.data<int32_t>();
    run_on_copy(current_isa->grad_input[1], args, values);
  } else {
    const Floats weights(values);
    args.values = weights.data;
    run(current_isa->grad_input[0], args);
  }
  sums.write();
  stack[0] = out.release();
}

// What the last block row stores beyond n is no weight, and 0 * infinity is no zero.
void clear_padding(const LinearGradArgs& a) {
  const int64_t rows = a.block_rows(), stored = a.n - (rows - 1) * a.v;
  for (int64_t j = rows > 0 ? a.crow[rows - 1] : 0; j < (rows > 0 ? a.crow[rows] : 0); ++j)
    std::fill(a.out + j * a.v + stored, a.out + (j + 1) * a.v, 0.0f);
}

// The gradient of the values, as they lie: arguments are grad (..., n), x (..., k), values, crow, col, index,
// n, k. The values themselves are not read.
void cpu_linear_grad_values(StableValue* stack, uint64_t, uint64_t) {
  const Tensor grad(stack[0]), x(stack[1]), values(stack[2]), crow(stack[3]), col(stack[4]), index(stack[5]);
  const int64_t n = int64_t(stack[6]), k = int64_t(stack[7]);
  check("x", x, k, values, n, k);
  check("grad", grad, n, values, n, k);
  check_weight(values, crow, col, index, n, k);
  const Rows ups(grad, n), rows(x, k);
  if (ups.count != rows.count)
    throw std::invalid_argument("grad has " + std::to_string(ups.count) + " rows, x " +
                                std::to_string(rows.count));
  Tensor out(reinterpret_cast<StableValue>(empty_like_rows(values, 1)));
  const Sums sums(out, values.numel(), 1);
  LinearGradArgs args{};
  args.grad = ups.data, args.grad_stride = ups.stride, args.x = rows.data, args.x_stride = rows.stride;
  args.crow = crow.data<int32_t>(), args.col = col.data<int32_t>(), args.out = sums.data();
  args.m = rows.count, args.n = n, args.k = k, args.v = values.sizes()[1];
  if (has_panels(index)) args.panels = index.data<int32_t>();
  if (args.m == 0) std::fill_n(sums.data(), values.numel(), 0.0f);
  if (args.m != 0 && values.numel() != 0) run(current_isa->grad_values[args.panels != nullptr], args);
  clear_padding(args);
  sums.write();
  stack[0] = out.release();
}

}  // namespace

void register_linear() {
  LibraryHandle library = nullptr;  // lives as long as the process
  check_torch(torch_api().aoti_torch_library_init_impl("sparsekern", "CPU", __FILE__, __LINE__, &library),
              "library_init");
  const std::pair<const char*, BoxedFunction> functions[] = {
      {"cpu_linear", cpu_linear},
      {"cpu_linear_grad_input", cpu_linear_grad_input},
      {"cpu_linear_grad_values", cpu_linear_grad_values}};
  for (const auto& [name, function] : functions)
    check_torch(torch_api().torch_library_impl(library, name, function, kAbiVersion), "library_impl");
}

}  // namespace sparsekern
