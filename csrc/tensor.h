// A tensor as torch's stable ABI shows it: a handle, asked through C functions.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "stable_abi.h"

namespace sparsekern {

// c10::ScalarType, part of torch's stable ABI.
enum ScalarCode : int32_t {
  kInt8Code = 1,
  kInt32Code = 3,
  kFloat16Code = 5,
  kFloat32Code = 6,
  kFloat64Code = 7,
  kBfloat16Code = 15
};

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

  // For handing a result over: not ours to delete any more.
  StableValue release() {
    const TensorHandle handle = handle_;
    handle_ = nullptr;
    return reinterpret_cast<StableValue>(handle);
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
  bool is_int32() const { return dtype_code() == kInt32Code; }
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
    switch (dtype_code()) {
      case kInt8Code:
        return "torch.int8";
      case kFloat16Code:
        return "torch.float16";
      case kFloat32Code:
        return "torch.float32";
      case kFloat64Code:
        return "torch.float64";
      case kBfloat16Code:
        return "torch.bfloat16";
      default:
        return "dtype number " + std::to_string(dtype_code());
    }
  }

 private:
  TensorHandle handle_;
};

}  // namespace sparsekern
