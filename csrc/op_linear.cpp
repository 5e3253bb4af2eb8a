#include "op_linear.h"

#include <memory>
#include <string>
#include <vector>

#include "parallel.h"

namespace sparsekern {

const Isa* current_isa = nullptr;

namespace {

// A tensor that came as an argument: ours to delete.
class Tensor {
 public:
  explicit Tensor(StableValue value) : handle_(reinterpret_cast<TensorHandle>(value)) {}
  ~Tensor() {
    if (handle_) torch_api().aoti_torch_delete_tensor_object(handle_);
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  // A Tensor? argument is 0 or the address of a value that libtorch made with new.
  static StableValue unwrap(StableValue optional) {
    const std::unique_ptr<StableValue> value(reinterpret_cast<StableValue*>(optional));
    return value ? *value : 0;
  }

  bool defined() const { return handle_ != nullptr; }
  template <class T>
  const T* data() const {
    void* address = nullptr;
    if (handle_) check_torch(torch_api().aoti_torch_get_data_ptr(handle_, &address), "get_data_ptr");
    return static_cast<const T*>(address);
  }
  int64_t dim() const {
    int64_t count = 0;
    check_torch(torch_api().aoti_torch_get_dim(handle_, &count), "get_dim");
    return count;
  }
  const int64_t* sizes() const {
    int64_t* sizes = nullptr;
    check_torch(torch_api().aoti_torch_get_sizes(handle_, &sizes), "get_sizes");
    return sizes;
  }
  const int64_t* strides() const {
    int64_t* strides = nullptr;
    check_torch(torch_api().aoti_torch_get_strides(handle_, &strides), "get_strides");
    return strides;
  }
  int32_t dtype_code() const {
    int32_t code = -1;
    check_torch(torch_api().aoti_torch_get_dtype(handle_, &code), "get_dtype");
    return code;
  }
  bool is_float32() const { return dtype_code() == torch_api().aoti_torch_dtype_float32(); }
  bool is_int32() const { return dtype_code() == torch_api().aoti_torch_dtype_int32(); }
  int64_t numel() const {
    int64_t count = 1;
    for (int64_t d = 0; d < dim(); ++d) count *= sizes()[d];
    return count;
  }
  bool contiguous() const {
    int64_t expected = 1;
    for (int64_t d = dim() - 1; d >= 0; expected *= sizes()[d--])
      if (sizes()[d] != 1 && strides()[d] != expected) return numel() == 0;
    return true;
  }
  std::string dtype() const {
    switch (dtype_code()) {  // c10::ScalarType, part of torch's stable ABI
      case 5:
        return "torch.float16";
      case 6:
        return "torch.float32";
      case 7:
        return "torch.float64";
      case 15:
        return "torch.bfloat16";
      default:
        return "dtype number " + std::to_string(dtype_code());
    }
  }

 private:
  TensorHandle handle_;
};

// Rows of x: as they lie if each is contiguous and they are evenly spaced, else copied.
struct Rows {
  const float* data;
  int64_t count, stride;
  std::vector<float> copy;

  Rows(const Tensor& x, int64_t k) : data(x.data<float>()), count(1), stride(k) {
    const int64_t dims = x.dim(), *sizes = x.sizes(), *strides = x.strides();
    for (int64_t d = 0; d + 1 < dims; ++d) count *= sizes[d];
    if (count == 0 || k == 0) return;
    bool contiguous = k == 1 || strides[dims - 1] == 1;
    if (dims == 2 && contiguous) {
      if (count > 1) stride = strides[0];
      return;
    }
    int64_t expected = k;
    for (int64_t d = dims - 2; d >= 0; expected *= sizes[d--])
      contiguous = contiguous && (sizes[d] == 1 || strides[d] == expected);
    if (contiguous) return;
    copy.resize(size_t(count) * k);
    for (int64_t row = 0; row < count; ++row) {
      const float* from = data;
      for (int64_t d = dims - 2, rest = row; d >= 0; rest /= sizes[d--]) from += rest % sizes[d] * strides[d];
      for (int64_t column = 0; column < k; ++column)
        copy[row * k + column] = from[column * strides[dims - 1]];
    }
    data = copy.data();
  }
};

std::vector<float> spread(const Tensor& vector) {
  std::vector<float> numbers(size_t(vector.sizes()[0]));
  for (size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = vector.data<float>()[int64_t(i) * vector.strides()[0]];
  return numbers;
}

std::string words_of_shape(const Tensor& tensor) {
  std::string words = "(";
  for (int64_t d = 0; d < tensor.dim(); ++d) words += (d ? ", " : "") + std::to_string(tensor.sizes()[d]);
  return words + ")";
}

// The words are those of PackedWeight.check in Python.
void check(const Tensor& x, const Tensor& values, const Tensor& bias, int64_t n, int64_t k) {
  const int64_t dims = x.dim();
  if (dims > 0 && x.sizes()[dims - 1] == k && x.is_float32() && values.is_float32() &&
      (!bias.defined() || (bias.dim() == 1 && bias.sizes()[0] == n && bias.is_float32())))
    return;
  const std::string inputs = std::to_string(k), outputs = std::to_string(n);
  if (dims == 0 || x.sizes()[dims - 1] != k)
    throw std::invalid_argument("x: expected (..., " + inputs + ") for a weight of shape (" + outputs + ", " +
                                inputs + "), got " + words_of_shape(x));
  if (!x.is_float32() || !values.is_float32())
    throw std::invalid_argument("x is " + x.dtype() + ", the weight " + values.dtype() +
                                "; expected torch.float32");
  throw std::invalid_argument("bias: expected torch.float32 (" + outputs + ",), got " + bias.dtype() + " " +
                              words_of_shape(bias));
}

// What a kernel reads without looking: that there is as much of it, and of the kind, as it takes for granted.
// What the indices say was checked when the weight was made.
void check_weight(const Tensor& values, const Tensor& crow, const Tensor& col, const Tensor& index, int64_t n,
                  int64_t k, int64_t kernel) {
  if (kernel != kVector && kernel != kUnstructured)
    throw std::invalid_argument("kernel: expected 0 (vector) or 1 (unstructured), got " +
                                std::to_string(kernel));
  if (n < 0 || k < 0 || values.dim() != 3 || values.sizes()[1] < 1 || values.sizes()[2] != 1 ||
      !values.contiguous())
    throw std::invalid_argument("values: expected contiguous blocks (nnz, V, 1), got " +
                                words_of_shape(values));
  const int64_t v = values.sizes()[1], rows = (n + v - 1) / v;
  const int64_t panels = kernel == kUnstructured ? ((k + kPanelColumns - 1) / kPanelColumns + 1) * rows : 0;
  for (const Tensor* each : {&crow, &col, &index})
    if (!each->is_int32() || !each->contiguous())
      throw std::invalid_argument("crow, col and index: expected contiguous torch.int32, got " +
                                  each->dtype());
  if (crow.numel() != rows + 1 || col.numel() != values.sizes()[0] || index.numel() < panels)
    throw std::invalid_argument("crow, col and index do not belong to values " + words_of_shape(values) +
                                " of a weight (" + std::to_string(n) + ", " + std::to_string(k) + ")");
}

TensorHandle empty_like_rows(const Tensor& x, int64_t n) {
  std::vector<int64_t> sizes(x.sizes(), x.sizes() + x.dim()), strides(sizes.size());
  sizes.back() = n;
  int64_t step = 1;
  for (size_t d = sizes.size(); d-- > 0; step *= sizes[d]) strides[d] = step;
  TensorHandle y = nullptr;
  const TorchApi& torch = torch_api();
  check_torch(torch.aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(),
                                             torch.aoti_torch_dtype_float32(),
                                             torch.aoti_torch_device_type_cpu(), 0, &y),
              "empty_strided");
  return y;
}

// Enough tasks that torch's even split of them keeps every thread busy to the end, no more than that: each
// task packs its tile of x anew.
int64_t chunks_for(int64_t tiles, int64_t threads) {
  if (threads == 1 || tiles >= 8 * threads) return 1;
  int64_t chunks = 1;
  while (tiles * chunks % threads != 0) ++chunks;
  return chunks;
}

void run(const LinearKernel& kernel, LinearArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  const int64_t threads = pool_threads(), tiles = kernel.tiles(args);
  args.chunks = chunks_for(tiles, threads);
  const size_t floats = kernel.scratch_floats(args);
  run_in_pool(tiles * args.chunks, threads, [&](int64_t begin, int64_t end) {
    kernel.run(args, begin, end, Scratch::of_this_thread().floats(floats));
  });
}

// Arguments in the order of the schema, which is in kernels/cpu.py.
void cpu_linear(StableValue* stack, uint64_t, uint64_t) {
  const Tensor x(stack[0]), values(stack[1]), bias(Tensor::unwrap(stack[2])), crow(stack[3]), col(stack[4]),
      index(stack[5]);
  const int64_t n = int64_t(stack[6]), k = int64_t(stack[7]), kernel = int64_t(stack[8]);
  check(x, values, bias, n, k);
  check_weight(values, crow, col, index, n, k, kernel);
  const Rows rows(x, k);
  const std::vector<float> terms = bias.defined() && !bias.contiguous() ? spread(bias) : std::vector<float>();
  const TensorHandle y = empty_like_rows(x, n);
  void* out = nullptr;
  check_torch(torch_api().aoti_torch_get_data_ptr(y, &out), "get_data_ptr");
  LinearArgs args{rows.data,
                  rows.stride,
                  values.data<float>(),
                  crow.data<int32_t>(),
                  col.data<int32_t>(),
                  index.data<int32_t>(),
                  terms.empty() ? bias.data<float>() : terms.data(),
                  static_cast<float*>(out),
                  rows.count,
                  n,
                  k,
                  values.sizes()[1],
                  1};
  run(kernel == kVector ? current_isa->vector_linear : current_isa->unstructured_linear, args);
  stack[0] = reinterpret_cast<StableValue>(y);
}

}  // namespace

void register_linear() {
  LibraryHandle library = nullptr;  // lives as long as the process
  check_torch(torch_api().aoti_torch_library_init_impl("sparsekern", "CPU", __FILE__, __LINE__, &library),
              "library_init");
  check_torch(torch_api().torch_library_impl(library, "cpu_linear", cpu_linear, kAbiVersion), "library_impl");
}

}  // namespace sparsekern
