// Work runs on torch's own thread pool, so torch.set_num_threads is obeyed and no second pool fights it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "stable_abi.h"

namespace sparsekern {

inline int64_t pool_threads() {
  uint32_t count = 1;
  const TorchApi& torch = torch_api();
  if (!torch.torch_get_num_threads || torch.torch_get_num_threads(&count) != 0 || count == 0) return 1;
  return count;
}

constexpr int64_t kWorkOfCopy = 8;  // multiply-adds that take as long as copying an element

// As many threads of the pool as so many multiply-adds are worth. Waking a thread, and waiting for the last,
// costs several microseconds.
inline int64_t threads_for(int64_t work) {
  constexpr int64_t kWorkOfThread = 1 << 18;  // some 10 us
  return std::clamp<int64_t>(work / kWorkOfThread, 1, pool_threads());
}

// body(begin, end) on disjoint ranges that cover [0, count), on at most so many threads. The body must not
// throw.
template <class Body>
void run_in_pool(int64_t count, int64_t threads, const Body& body) {
  if (count <= 1 || threads == 1) return body(int64_t{0}, count);
  const RangeFunction call = [](int64_t begin, int64_t end, void* context) {
    (*static_cast<const Body*>(context))(begin, end);
  };
  const int64_t grain = (count + threads - 1) / threads;
  check_torch(torch_api().torch_parallel_for(0, count, grain, call, const_cast<Body*>(&body)),
              "torch_parallel_for");
}

// One buffer a thread, grown when needed and kept: a layer is called often with the same sizes.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  float* floats(size_t count) {
    if (count > capacity_) {
      std::free(data_);
      const size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
      data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
      capacity_ = data_ ? count : 0;
      if (!data_) throw std::bad_alloc();
    }
    return data_;
  }
  static Scratch& of_this_thread() {
    thread_local Scratch scratch;
    return scratch;
  }

 private:
  float* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace sparsekern
