#include "op_words.h"

#include <cstring>
#include <optional>

#include "op_shared.h"

namespace sparsekern {

bool is_usable(const WordKernel& kernel) {
  return kernel.supported() && (!kernel.isa || std::strcmp(kernel.isa, current_isa->name) == 0);
}

std::vector<const WordKernel*> usable(const std::vector<const WordKernel*>& kernels) {
  std::vector<const WordKernel*> found;
  for (const WordKernel* kernel : kernels)
    if (is_usable(*kernel)) found.push_back(kernel);
  return found;
}

const WordKernel& choose_word_kernel(const std::vector<const WordKernel*>& kernels, int64_t m) {
  const WordKernel* last = nullptr;
  for (const WordKernel* kernel : kernels)
    if (is_usable(*kernel)) {
      last = kernel;
      if (m >= kernel->least_rows) break;
    }
  if (!last)
    throw std::invalid_argument(std::string("no kernel for these blocks: this machine, or the ISA in use (") +
                                current_isa->name + "), lacks the instructions");
  return *last;
}

namespace {

// Rows of bfloat16 as words: as they lie if they are evenly spaced and made of whole words, else copied.
struct PairRows {
  const uint32_t* data;
  int64_t count = 1, stride;
  std::unique_ptr<uint16_t[]> copy;

  PairRows(const Tensor& x, int64_t k) : data(x.data<uint32_t>()), stride((k + 1) / 2) {
    const int64_t dims = x.dim(), *sizes = x.sizes(), *strides = x.strides();
    for (int64_t d = 0; d + 1 < dims; ++d) count *= sizes[d];
    if (count == 0 || k == 0) return;
    const bool spaced = x.contiguous() || (dims == 2 && strides[1] == 1 && strides[0] % 2 == 0);
    if (k % 2 == 0 && spaced && reinterpret_cast<uintptr_t>(data) % sizeof(uint32_t) == 0) {
      if (dims == 2 && count > 1) stride = strides[0] / 2;
      return;
    }
    const int64_t width = 2 * stride, step = strides[dims - 1];
    copy.reset(new uint16_t[size_t(count * width)]);
    run_in_pool(count, threads_for(kWorkOfCopy * count * k), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const uint16_t* from = x.data<uint16_t>() + offset_of_row(x, row);
        uint16_t* to = copy.get() + row * width;
        to[width - 1] = 0;
        for (int64_t j = 0; j < k; ++j) to[j] = from[j * step];
      }
    });
    data = reinterpret_cast<const uint32_t*>(copy.get());
  }
};

// What a kernel reads without looking, as check_weight in op_linear.cpp; `wide` is a block's inputs.
void check_blocks(const Tensor& values, const Tensor& crow, const Tensor& col, const WordArgs& a,
                  int64_t wide) {
  if (a.n < 0 || a.words < 0 || values.dim() != 3 || values.sizes()[1] < 1 ||
      values.sizes()[1] % kWordOutputs != 0 || values.sizes()[2] != wide || !values.contiguous())
    throw std::invalid_argument("values: expected contiguous blocks (nnz, V, " + std::to_string(wide) +
                                "), V a multiple of " + std::to_string(kWordOutputs) + ", got " +
                                words_of_shape(values));
  for (const Tensor* each : {&crow, &col})
    if (!each->is_int32() || !each->contiguous())
      throw std::invalid_argument("crow and col: expected contiguous torch.int32, got " + each->dtype());
  const int64_t v = values.sizes()[1];
  if (crow.numel() != (a.n + v - 1) / v + 1 || col.numel() != values.sizes()[0])
    throw std::invalid_argument("crow and col do not belong to values " + words_of_shape(values) +
                                " of a weight with " + std::to_string(a.n) + " outputs");
}

const WordKernel& kernel_of(const std::vector<const WordKernel*>& all, int64_t id, int64_t m) {
  if (id == kChooseKernel) return choose_word_kernel(all, m);
  const std::vector<const WordKernel*> found = usable(all);
  if (id < 0 || id >= int64_t(found.size()))
    throw std::invalid_argument("kernel: expected -1 (choose) or the number of one of " +
                                std::to_string(found.size()) + " kernels, got " + std::to_string(id));
  return *found[size_t(id)];
}

// Arguments in the order of the schema, which is in kernels/cpu_pairs.py.
void cpu_linear_pairs(StableValue* stack, uint64_t, uint64_t) {
  const Tensor x(stack[0]), values(stack[1]), bias(Tensor::unwrap(stack[2])), crow(stack[3]), col(stack[4]),
      index(stack[5]);
  const int64_t n = int64_t(stack[6]), k = int64_t(stack[7]), id = int64_t(stack[8]), act = int64_t(stack[9]);
  check("x", x, k, values, n, k);
  if (bias.defined()) check_bias(bias, values, n);
  if (x.dtype_code() != kBfloat16Code)
    throw std::invalid_argument("x and the weight are " + x.dtype() + "; expected torch.bfloat16");
  WordArgs args{};
  args.n = n, args.words = (k + 1) / 2, args.last_word = k % 2 ? 0xffffu : ~0u;
  check_blocks(values, crow, col, args, 2);
  args.activation = activation_of(act);
  const PairRows rows(x, k);
  args.x = rows.data, args.x_stride = rows.stride, args.m = rows.count;
  args.values = values.data<uint32_t>(), args.v = values.sizes()[1];
  args.crow = crow.data<int32_t>(), args.col = col.data<int32_t>();
  const WordKernel& kernel = kernel_of(pair_kernels(), id, args.m);
  std::optional<Rows> terms;
  if (bias.defined()) args.bias = terms.emplace(bias, n).data;
  Tensor y(reinterpret_cast<StableValue>(empty_like_rows(x, n)));
  args.y = const_cast<uint16_t*>(y.data<uint16_t>()), args.dtype = Dtype::kBfloat16;
  if (args.m != 0 && n != 0) run(kernel, args);
  stack[0] = y.release();
}

// The convolution of x (N, H, W, in), of which the ints say the rest: out, in, the kernel, strides, padding
// at the top, left, bottom and right, dilation.
WordMap map_of(const Tensor& x, const StableValue* ints) {
  const auto at = [&](int i) { return int64_t(ints[i]); };
  if (x.dim() != 4 || !x.contiguous() || x.sizes()[3] != at(1) || at(1) % 2 != 0 ||
      x.dtype_code() != kBfloat16Code)
    throw std::invalid_argument("x: expected contiguous torch.bfloat16 (N, H, W, " + std::to_string(at(1)) +
                                "), an even number of channels, got " + x.dtype() + " " + words_of_shape(x));
  for (int i = 0; i < 12; ++i)
    if (at(i) < (i >= 6 && i < 10 ? 0 : 1) || at(i) > INT32_MAX)
      throw std::invalid_argument(
          "expected channels, kernel, stride and dilation in [1, 2^31), padding in [0, 2^31)");
  const int64_t height = x.sizes()[1], width = x.sizes()[2];
  const int64_t down = height + at(6) + at(8) - at(10) * (at(2) - 1) - 1;
  const int64_t across = width + at(7) + at(9) - at(11) * (at(3) - 1) - 1;
  if (down < 0 || across < 0) throw std::invalid_argument("kernel: expected one that fits into x");
  return {height, width,  at(1) / 2, down / at(4) + 1, across / at(5) + 1, at(2), at(3), at(4), at(5), at(6),
          at(7),  at(10), at(11)};
}

// Arguments in the order of the schema, which is in kernels/cpu_conv_pairs.py.
void cpu_conv2d_pairs(StableValue* stack, uint64_t, uint64_t) {
  const Tensor x(stack[0]), values(stack[1]), bias(Tensor::unwrap(stack[2])), crow(stack[3]), col(stack[4]);
  const WordMap map = map_of(x, stack + 5);
  WordArgs args{};
  args.n = int64_t(stack[5]), args.words = map.kh * map.kw * map.words, args.last_word = ~0u;
  if (bias.defined()) check_bias(bias, values, args.n);
  if (values.dtype_code() != kBfloat16Code)
    throw std::invalid_argument("x is " + x.dtype() + ", the weight " + values.dtype() +
                                "; expected one dtype");
  check_blocks(values, crow, col, args, 2);
  args.map = &map, args.activation = activation_of(int64_t(stack[18]));
  args.x = x.data<uint32_t>(), args.m = x.sizes()[0] * map.out_height * map.out_width;
  args.values = values.data<uint32_t>(), args.v = values.sizes()[1];
  args.crow = crow.data<int32_t>(), args.col = col.data<int32_t>();
  const WordKernel& kernel = kernel_of(pair_kernels(), int64_t(stack[17]), args.m);
  std::optional<Rows> terms;
  if (bias.defined()) args.bias = terms.emplace(bias, args.n).data;
  Tensor y(reinterpret_cast<StableValue>(
      empty_of({x.sizes()[0], map.out_height, map.out_width, args.n}, x.dtype_code())));
  args.y = const_cast<uint16_t*>(y.data<uint16_t>()), args.dtype = Dtype::kBfloat16;
  if (args.m != 0) run(kernel, args);
  stack[0] = y.release();
}

// Rows of x as int8, each with its scale.
struct QuadRows {
  std::unique_ptr<uint32_t[]> words;
  std::unique_ptr<float[]> scales;

  QuadRows(const Rows& rows, int64_t k, const WordKernel& kernel)
      : words(new uint32_t[size_t(rows.count * ((k + 3) / 4) + 1)]), scales(uninitialized(rows.count)) {
    run_in_pool(rows.count, threads_for(kWorkOfCopy * rows.count * k), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        kernel.quantize(rows.data + row * rows.stride, k, words.get() + row * ((k + 3) / 4),
                        &scales[size_t(row)]);
    });
  }
};

void check_quads(const Tensor& x, const Tensor& values, const Tensor& scales, const Tensor& bias, int64_t n,
                 int64_t k) {
  constexpr int64_t kMostInputs = 65536;  // 127 * 255 times as many still fit into int32
  if (x.dim() == 0 || x.sizes()[x.dim() - 1] != k || k > kMostInputs)
    throw std::invalid_argument("x: expected (..., " + std::to_string(k) + "), at most " +
                                std::to_string(kMostInputs) + " inputs, got " + words_of_shape(x));
  const int32_t code = x.dtype_code();
  if ((code != kFloat32Code && code != kBfloat16Code) || values.dtype_code() != kInt8Code)
    throw std::invalid_argument("x is " + x.dtype() + ", the weight " + values.dtype() +
                                "; expected torch.float32 or torch.bfloat16, and torch.int8");
  for (const Tensor* each : {&scales, &bias})
    if (each->defined() && (each->dim() != 1 || each->sizes()[0] != n || each->dtype_code() != kFloat32Code ||
                            !each->contiguous()))
      throw std::invalid_argument("scales and bias: expected contiguous torch.float32 (" + std::to_string(n) +
                                  ",), got " + each->dtype() + " " + words_of_shape(*each));
}

// Arguments in the order of the schema, which is in kernels/cpu_int8.py.
void cpu_linear_int8(StableValue* stack, uint64_t, uint64_t) {
  const Tensor x(stack[0]), values(stack[1]), scales(stack[2]), bias(Tensor::unwrap(stack[3])),
      crow(stack[4]), col(stack[5]);
  const int64_t n = int64_t(stack[6]), k = int64_t(stack[7]), id = int64_t(stack[8]), act = int64_t(stack[9]);
  check_quads(x, values, scales, bias, n, k);
  WordArgs args{};
  args.n = n, args.words = args.x_stride = (k + 3) / 4, args.last_word = ~0u;
  check_blocks(values, crow, col, args, 4);
  args.activation = activation_of(act);
  const Rows rows(x, k);
  args.m = rows.count;
  const WordKernel& kernel = kernel_of(quad_kernels(), id, args.m);
  const QuadRows quads(rows, k, kernel);
  args.x = quads.words.get(), args.x_scales = quads.scales.get();
  args.values = values.data<uint32_t>(), args.v = values.sizes()[1], args.scales = scales.data<float>();
  args.crow = crow.data<int32_t>(), args.col = col.data<int32_t>();
  if (bias.defined()) args.bias = bias.data<float>();
  Tensor y(reinterpret_cast<StableValue>(empty_like_rows(x, n)));
  args.y = const_cast<char*>(y.data<char>()), args.dtype = dtype_of(y);
  if (args.m != 0 && n != 0) run(kernel, args);
  stack[0] = y.release();
}

}  // namespace

void register_words() {
  LibraryHandle library = nullptr;  // lives as long as the process
  check_torch(torch_api().aoti_torch_library_init_impl("sparsekern", "CPU", __FILE__, __LINE__, &library),
              "library_init");
  check_torch(torch_api().torch_library_impl(library, "cpu_linear_pairs", cpu_linear_pairs, kAbiVersion),
              "library_impl");
  check_torch(torch_api().torch_library_impl(library, "cpu_conv2d_pairs", cpu_conv2d_pairs, kAbiVersion),
              "library_impl");
  check_torch(torch_api().torch_library_impl(library, "cpu_linear_int8", cpu_linear_int8, kAbiVersion),
              "library_impl");
}

}  // namespace sparsekern
