// What the ops on the CPU share: tensors as rows of numbers, and kernels run on them in torch's pool.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "op_linear.h"
#include "parallel.h"
#include "tensor.h"

namespace sparsekern {

// The dtypes that the ops take: sums are float32 in all of them.
inline bool takes(int32_t code) {
  return code == kFloat32Code || code == kBfloat16Code || code == kFloat16Code;
}

inline Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.dtype_code()) {
    case kBfloat16Code:
      return Dtype::kBfloat16;
    case kFloat16Code:
      return Dtype::kFloat16;
    default:
      return Dtype::kFloat32;
  }
}

inline std::unique_ptr<float[]> uninitialized(int64_t count) {
  return std::unique_ptr<float[]>(new float[size_t(count > 0 ? count : 1)]);
}

// Elements from the start of x (..., k) to its row of that number.
inline int64_t offset_of_row(const Tensor& x, int64_t row) {
  const int64_t *sizes = x.sizes(), *strides = x.strides();
  int64_t offset = 0;
  for (int64_t d = x.dim() - 2; d >= 0; row /= sizes[d--]) offset += row % sizes[d] * strides[d];
  return offset;
}

// Rows of x as float32: as they lie if each is contiguous and they are evenly spaced, else copied.
struct Rows {
  const float* data;
  int64_t count, stride;
  std::unique_ptr<float[]> copy;

  Rows(const Tensor& x, int64_t k) : data(x.data<float>()), count(1), stride(k) {
    const int64_t dims = x.dim(), *sizes = x.sizes(), *strides = x.strides();
    for (int64_t d = 0; d + 1 < dims; ++d) count *= sizes[d];
    if (count == 0 || k == 0) return;
    const bool contiguous = k == 1 || strides[dims - 1] == 1;
    if (dtype_of(x) == Dtype::kFloat32 && contiguous && (dims == 2 || x.contiguous())) {
      if (dims == 2 && count > 1) stride = strides[0];
      return;
    }
    copy = uninitialized(count * k);
    data = copy.get();
    run_in_pool(count, threads_for(kWorkOfCopy * count * k), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        copy_row(x, offset_of_row(x, row), contiguous ? 1 : strides[dims - 1], k, copy.get() + row * k);
    });
  }

  static void copy_row(const Tensor& x, int64_t from, int64_t step, int64_t k, float* to) {
    const Dtype dtype = dtype_of(x);
    if (dtype == Dtype::kFloat32) {
      for (int64_t j = 0; j < k; ++j) to[j] = x.data<float>()[from + j * step];
    } else if (step == 1) {
      current_isa->widen(x.data<uint16_t>() + from, dtype, to, size_t(k));
    } else {
      std::vector<uint16_t> row(static_cast<size_t>(k));
      for (int64_t j = 0; j < k; ++j) row[size_t(j)] = x.data<uint16_t>()[from + j * step];
      current_isa->widen(row.data(), dtype, to, size_t(k));
    }
  }
};

inline std::string words_of_shape(const Tensor& tensor) {
  std::string words = "(";
  for (int64_t d = 0; d < tensor.dim(); ++d) words += (d ? ", " : "") + std::to_string(tensor.sizes()[d]);
  return words + ")";
}

// The words are those of PackedWeight.check in Python.
inline void check(const std::string& name, const Tensor& x, int64_t width, const Tensor& values, int64_t n,
                  int64_t k) {
  const int64_t dims = x.dim();
  if (dims == 0 || x.sizes()[dims - 1] != width)
    throw std::invalid_argument(name + ": expected (..., " + std::to_string(width) +
                                ") for a weight of shape (" + std::to_string(n) + ", " + std::to_string(k) +
                                "), got " + words_of_shape(x));
  if (!takes(x.dtype_code()) || values.dtype_code() != x.dtype_code())
    throw std::invalid_argument(name + " is " + x.dtype() + ", the weight " + values.dtype() +
                                "; expected one of torch.float32, torch.bfloat16, torch.float16 for both");
}

inline void check_bias(const Tensor& bias, const Tensor& values, int64_t n) {
  if (bias.dim() == 1 && bias.sizes()[0] == n && bias.dtype_code() == values.dtype_code()) return;
  throw std::invalid_argument("bias: expected " + values.dtype() + " (" + std::to_string(n) + ",), got " +
                              bias.dtype() + " " + words_of_shape(bias));
}

inline Activation activation_of(int64_t number) {
  if (number < 0 || number > int64_t(Activation::kGelu))
    throw std::invalid_argument("activation: expected 0 (none), 1 (relu) or 2 (gelu), got " +
                                std::to_string(number));
  return Activation(number);
}

// Contiguous.
inline TensorHandle empty_of(const std::vector<int64_t>& sizes, int32_t dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t step = 1;
  for (size_t d = sizes.size(); d-- > 0; step *= sizes[d]) strides[d] = step;
  TensorHandle y = nullptr;
  const TorchApi& torch = torch_api();
  check_torch(torch.aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                                             torch.aoti_torch_device_type_cpu(), 0, &y),
              "empty_strided");
  return y;
}

inline TensorHandle empty_like_rows(const Tensor& x, int64_t n) {
  std::vector<int64_t> sizes(x.sizes(), x.sizes() + x.dim());
  sizes.back() = n;
  return empty_of(sizes, x.dtype_code());
}

// Enough tasks that torch's even split of them keeps every thread busy to the end, no more than that: each
// task packs its tile of x anew.
inline int64_t chunks_for(int64_t tiles, int64_t threads) {
  if (tiles == 0) return 1;
  if (threads == 1 || tiles >= 8 * threads) return 1;
  int64_t chunks = 1;
  while (tiles * chunks % threads != 0) ++chunks;
  return chunks;
}

template <class Kernel, class Args>
void run(const Kernel& kernel, Args& args) {
  const int64_t threads = threads_for(args.work()), tiles = kernel.tiles(args);
  args.chunks = chunks_for(tiles, threads);
  const size_t floats = kernel.scratch_floats(args);
  run_in_pool(tiles * args.chunks, threads, [&](int64_t begin, int64_t end) {
    kernel.run(args, begin, end, Scratch::of_this_thread().floats(floats));
  });
}

}  // namespace sparsekern
