// What the ops over blocks share: their checks, 16-bit floats as float32, and the copy of the values that an
// index holds.
#pragma once

#include <memory>
#include <mutex>
#include <shared_mutex>

#include "cpu/panel_index.h"
#include "op_shared.h"

namespace sparsekern {

// A tensor as float32 in the order of its memory, which must be dense: itself, or a copy.
struct Floats {
  const float* data = nullptr;
  std::unique_ptr<float[]> copy;

  explicit Floats(const Tensor& tensor) {
    if (!tensor.defined()) return;
    const Dtype dtype = dtype_of(tensor);
    if (dtype == Dtype::kFloat32) {
      data = tensor.data<float>();
      return;
    }
    copy = uninitialized(tensor.numel());
    current_isa->widen(tensor.data<uint16_t>(), dtype, copy.get(), size_t(tensor.numel()));
    data = copy.get();
  }
};

// Where a kernel writes: into y itself, or for a 16-bit y beside it, to be rounded at the end.
class Sums {
 public:
  Sums(const Tensor& y, int64_t rows, int64_t columns) : y_(y), rows_(rows), columns_(columns) {
    if (dtype_of(y) != Dtype::kFloat32) beside_ = uninitialized(rows * columns);
  }

  float* data() const { return beside_ ? beside_.get() : const_cast<float*>(y_.data<float>()); }

  void write() const {
    if (!beside_) return;
    auto* to = const_cast<uint16_t*>(y_.data<uint16_t>());
    run_in_pool(rows_, threads_for(kWorkOfCopy * rows_ * columns_), [&](int64_t begin, int64_t end) {
      current_isa->narrow(beside_.get() + begin * columns_, dtype_of(y_), to + begin * columns_,
                          size_t((end - begin) * columns_));
    });
  }

 private:
  const Tensor& y_;
  int64_t rows_, columns_;
  std::unique_ptr<float[]> beside_;
};

// The lock of an index. Layers share a few, so that none waits for all others.
inline std::shared_mutex& lock_of(const PanelIndex& index) {
  constexpr uintptr_t kLocks = 61;
  static std::shared_mutex locks[kLocks];
  return locks[reinterpret_cast<uintptr_t>(index.base) / 64 % kLocks];
}

inline uint64_t checksum_of(const Tensor& values) {
  const size_t size = dtype_of(values) == Dtype::kFloat32 ? sizeof(float) : sizeof(uint16_t);
  return current_isa->checksum(values.data<char>(), size_t(values.numel()) * size);
}

// Of blocks (nnz, V, 1) and their indices: that they are what a kernel reads without looking.
inline void check_blocks(const Tensor& values, const Tensor& crow, const Tensor& col, const Tensor& index) {
  if (values.dim() != 3 || values.sizes()[1] < 1 || values.sizes()[2] != 1 || !values.contiguous())
    throw std::invalid_argument("values: expected contiguous blocks (nnz, V, 1), got " +
                                words_of_shape(values));
  for (const Tensor* each : {&crow, &col, &index})
    if (!each->is_int32() || !each->contiguous())
      throw std::invalid_argument("crow, col and index: expected contiguous torch.int32, got " +
                                  each->dtype());
}

// Whether an index was made for a weight of this shape with so many blocks.
inline bool is_index_of(const Tensor& index, const PanelShape& shape, int64_t blocks) {
  const int64_t words = index.numel();
  if (words < int64_t(sizeof(PanelHeader) / sizeof(int32_t))) return false;
  const PanelHeader& header = *index.data<PanelHeader>();
  return header.n == shape.n && header.k == shape.k && header.v == shape.v && header.blocks == blocks &&
         header.taps == shape.taps && header.panel_groups == shape.panel_groups &&
         header.panel_rows == shape.panel_rows && PanelIndex::words_of(header) == words;
}

// Kernels over panels multiply with their own copy of the values. The copy is compared before every product,
// and others may be using it meanwhile: readers share the lock, who finds it stale mends it alone.
template <class Kernel, class Args>
void run_on_copy(const Kernel& kernel, Args& args, const Tensor& values) {
  const PanelIndex index{const_cast<int32_t*>(args.panels)};
  PanelHeader& header = index.header();
  const uint64_t checksum = checksum_of(values);
  {
    const std::shared_lock<std::shared_mutex> lock(lock_of(index));
    if (header.packed && header.checksum == checksum) return run(kernel, args);
  }
  const std::unique_lock<std::shared_mutex> lock(lock_of(index));
  if (!header.packed || header.checksum != checksum) {
    pack_panel_values(index, Floats(values).data);
    header.checksum = checksum;
    header.packed = checksum_of(values) == checksum;  // written meanwhile: the copy is of nobody knows what
  }
  run(kernel, args);
}

// Runs a kernel on its copy of the values, or on the values where they lie.
template <class Kernel, class Args>
void run_on_values(const Kernel& kernel, Args& args, const Tensor& values) {
  if (kernel.copies) return run_on_copy(kernel, args, values);
  const Floats weights(values);
  args.values = weights.data;
  run(kernel, args);
}

}  // namespace sparsekern
