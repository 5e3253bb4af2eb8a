// The whole interface between the binding and the CPU kernels.
// Nothing below csrc/cpu knows of torch, Python or threads: a kernel runs tasks [begin, end) on the caller's
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sparsekern {

enum class Activation : int64_t { kNone, kRelu, kGelu };
enum class Dtype { kFloat32, kBfloat16, kFloat16 };

// y[m][n] = activation(x[m][k] * W[n][k]^T + bias), W in block-sparse rows with blocks (v, 1):
// block row b holds nonzero blocks crow[b] .. crow[b + 1], block j stands in column col[j], its v values at
// values[j * v]. Edges may be ragged: the last block row has n - b * v real outputs, what is stored for the
// others is never written out.
struct LinearArgs {
  const float* x;
  int64_t x_stride;  // elements from one row of x to the next
  const float* values;
  const int32_t* crow;
  const int32_t* col;
  const int32_t* panels;  // what panel_index.h makes, or null: the panels kernel needs it
  const float* bias;      // may be null
  float* y;
  int64_t m, n, k, v;
  int64_t chunks;  // every tile of rows of x is cut into this many tasks, by nonzeros
  Activation activation;
  // Where some columns of W are dead: those alive, and `col` counted among them. Else null.
  const int32_t* live = nullptr;
  const int32_t* compact = nullptr;
  int64_t live_columns = 0;

  int64_t block_rows() const { return (n + v - 1) / v; }
  int64_t work() const { return m * (crow[block_rows()] * v + n + k); }  // multiply-adds, and what is moved
  // What kernels that pack x first read of it, and its column for each block.
  int64_t packed_columns() const { return live ? live_columns : k; }
  const int32_t* packed_col() const { return live ? compact : col; }
};

struct LinearKernel {
  const char* name;
  bool copies;  // reads the copy of the values in `panels` instead of `values`
  bool (*takes)(const LinearArgs&);
  int64_t (*tiles)(const LinearArgs&);  // tiles of rows of x; does not depend on the number of threads
  size_t (*scratch_floats)(const LinearArgs&);  // scratch of one thread, 64-byte aligned
  void (*run)(const LinearArgs&, int64_t begin, int64_t end, float* scratch);  // tasks: tile * chunks + chunk
};

constexpr int kLinearKernels = 4;

// Gradients of y = x W^T: of the input, out[m][k] = grad[m][n] W, or of the stored values, out[j][v] in BSR
// order. What a ragged block stores beyond n gets zero.
struct LinearGradArgs {
  const float* grad;    // of y
  int64_t grad_stride;  // elements from one row to the next
  const float* x;       // for the values only
  int64_t x_stride;
  const float* values;  // for the input only
  const int32_t* crow;
  const int32_t* col;
  const int32_t* panels;  // as in LinearArgs
  float* out;
  int64_t m, n, k, v;
  int64_t chunks;

  int64_t block_rows() const { return (n + v - 1) / v; }
  int64_t work() const { return m * (crow[block_rows()] * v + n + k); }
};

struct LinearGradKernel {
  int64_t (*tiles)(const LinearGradArgs&);
  size_t (*scratch_floats)(const LinearGradArgs&);
  void (*run)(const LinearGradArgs&, int64_t begin, int64_t end, float* scratch);
};

struct ConvKernel;

struct Isa {
  const char* name;
  bool (*supported)();
  LinearKernel linear[kLinearKernels];        // the same kernels in the same order on every ISA
  int (*choose_linear)(const LinearArgs&);    // index into linear: pure, sees sizes only
  uint64_t (*checksum)(const void*, size_t);  // of so many bytes
  void (*widen)(const uint16_t* from, Dtype, float* to, size_t count);
  void (*narrow)(const float* from, Dtype, uint16_t* to, size_t count);
  float (*fma_loop)(int64_t iterations);                      // for measuring the peak
  int64_t fma_loop_flops;                                     // of one iteration
  float (*read_loop)(const float*, size_t, int64_t repeats);  // for measuring bandwidth: reads so many floats
  LinearGradKernel grad_input[2], grad_values[2];  // for blocks, and where there is an index of panels
  const ConvKernel* conv;                          // kConvKernels of them: conv.h
};

// Compiled in, best first.
std::vector<const Isa*> isas();
// Throws std::invalid_argument: unknown, or this machine lacks it.
const Isa& isa_by_name(const std::string& name);
// The first that this machine supports.
const Isa& best_isa();

}  // namespace sparsekern
