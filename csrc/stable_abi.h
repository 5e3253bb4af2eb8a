// The C functions of libtorch that sparsekern calls. They are torch's stable ABI (since torch 2.10), so no
// torch header is needed to build and one build serves every torch; Python looks up their addresses and hands
// them over at import.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace sparsekern {

using TensorHandle = void*;
using LibraryHandle = void*;
using StableValue =
    uint64_t;  // an argument or result of an op: a tensor's handle, an int, or the address of an optional
using BoxedFunction = void (*)(StableValue* stack, uint64_t inputs, uint64_t outputs);
using RangeFunction = void (*)(int64_t begin, int64_t end, void* context);

constexpr uint64_t kAbiVersion = uint64_t{2} << 56 | uint64_t{10}
                                                         << 48;  // the torch whose conventions are meant

// Every line: result, name, arguments. All but two return 0 for success.
#define SPARSEKERN_TORCH_FUNCTIONS(X)                                                    \
  X(int32_t, torch_parallel_for, (int64_t, int64_t, int64_t, RangeFunction, void*))      \
  X(int32_t, torch_get_num_threads, (uint32_t*))                                         \
  X(int32_t, torch_library_impl, (LibraryHandle, const char*, BoxedFunction, uint64_t))  \
  X(int32_t, aoti_torch_library_init_impl,                                               \
    (const char*, const char*, const char*, uint32_t, LibraryHandle*))                   \
  X(int32_t, aoti_torch_get_data_ptr, (TensorHandle, void**))                            \
  X(int32_t, aoti_torch_get_dim, (TensorHandle, int64_t*))                               \
  X(int32_t, aoti_torch_get_sizes, (TensorHandle, int64_t**))                            \
  X(int32_t, aoti_torch_get_strides, (TensorHandle, int64_t**))                          \
  X(int32_t, aoti_torch_get_dtype, (TensorHandle, int32_t*))                             \
  X(int32_t, aoti_torch_empty_strided,                                                   \
    (int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, TensorHandle*)) \
  X(int32_t, aoti_torch_delete_tensor_object, (TensorHandle))                            \
  X(int32_t, aoti_torch_device_type_cpu, ())

struct TorchApi {
#define SPARSEKERN_FIELD(result, name, arguments) result(*name) arguments = nullptr;
  SPARSEKERN_TORCH_FUNCTIONS(SPARSEKERN_FIELD)
#undef SPARSEKERN_FIELD
};

inline TorchApi& torch_api() {
  static TorchApi api;
  return api;
}

inline void check_torch(int32_t error, const char* what) {
  if (error != 0) throw std::runtime_error(std::string("libtorch: ") + what + " failed");
}

}  // namespace sparsekern
