// Work runs on torch's own thread pool, so torch.set_num_threads is obeyed and no second pool fights it.
// libtorch exports the C functions torch_parallel_for and torch_get_num_threads (stable since torch 2.10);
// Python hands over their addresses.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <new>
#include <stdexcept>

namespace sparsekern {

class ThreadPool {
 public:
  using Function = void (*)(int64_t begin, int64_t end, void* context);

  void use(uintptr_t parallel_for, uintptr_t get_num_threads) {
    parallel_for_ = reinterpret_cast<ParallelFor>(parallel_for);
    get_num_threads_ = reinterpret_cast<GetNumThreads>(get_num_threads);
  }

  int64_t threads() const {
    uint32_t count = 1;
    if (get_num_threads_ && get_num_threads_(&count) != 0) count = 1;
    return count ? count : 1;
  }

  // body(begin, end) on disjoint ranges that cover [0, count). The body must not throw.
  template <class Body>
  void run(int64_t count, const Body& body) const {
    if (count <= 1 || !parallel_for_ || threads() == 1) return body(int64_t{0}, count);
    const Function call = [](int64_t begin, int64_t end, void* context) {
      (*static_cast<const Body*>(context))(begin, end);
    };
    if (parallel_for_(0, count, 1, call, const_cast<Body*>(&body)) != 0)
      throw std::runtime_error("torch_parallel_for failed");
  }

 private:
  using ParallelFor = int32_t (*)(int64_t, int64_t, int64_t, Function, void*);
  using GetNumThreads = int32_t (*)(uint32_t*);
  ParallelFor parallel_for_ = nullptr;
  GetNumThreads get_num_threads_ = nullptr;
};

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
