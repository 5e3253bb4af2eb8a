#include "cpu/conv.h"
#include "cpu/half.h"
#include "cpu/kernels.h"
#include "cpu/panel_index.h"
#include "cpu/unroll.h"

namespace sparsekern {
namespace {

// Plain C++ at the platform's baseline, written as 4 lanes so that the one body serves; runs on every
// machine.
struct Scalar {
  struct T {
    float at[4];
  };
  using Mask = int64_t;
  static constexpr int width = 4, registers = 16, rows = 4, rows_of_pairs = 2;
  static constexpr int batch_vectors = 6, outputs_at_once = 4;

  static T zero() { return {{0.0f, 0.0f, 0.0f, 0.0f}}; }
  static T broadcast(float a) { return {{a, a, a, a}}; }
  static Mask mask(int64_t count) { return count; }
  static T load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static T load(const float* p, Mask m) {
    T a = zero();
    for (int64_t i = 0; i < m; ++i) a.at[i] = p[i];
    return a;
  }
  static void store(float* p, T a) { store(p, a, 4); }
  static void store(float* p, T a, Mask m) {
    for (int64_t i = 0; i < m; ++i) p[i] = a.at[i];
  }
  static T load_bfloat16(const uint16_t* p) {
    T a;
    for (int i = 0; i < 4; ++i) a.at[i] = float_of_bfloat16(p[i]);
    return a;
  }
  static T load_float16(const uint16_t* p) {
    T a;
    for (int i = 0; i < 4; ++i) a.at[i] = float_of_float16(p[i]);
    return a;
  }
  static void store_bfloat16(uint16_t* p, T a) {
    for (int i = 0; i < 4; ++i) p[i] = bfloat16_of_float(a.at[i]);
  }
  static void store_float16(uint16_t* p, T a) {
    for (int i = 0; i < 4; ++i) p[i] = float16_of_float(a.at[i]);
  }
  template <class Function>
  static T each(T a, T b, Function function) {
    for (int i = 0; i < 4; ++i) a.at[i] = function(a.at[i], b.at[i]);
    return a;
  }
  static T add(T a, T b) {
    return each(a, b, [](float x, float y) { return x + y; });
  }
  static T mul(T a, T b) {
    return each(a, b, [](float x, float y) { return x * y; });
  }
  static T div(T a, T b) {
    return each(a, b, [](float x, float y) { return x / y; });
  }
  static T max(T a, T b) {
    return each(a, b, [](float x, float y) { return x > y ? x : y; });
  }
  static T min(T a, T b) {
    return each(a, b, [](float x, float y) { return x < y ? x : y; });
  }
  static T fma(T a, T b, T c) {
    for (int i = 0; i < 4; ++i) c.at[i] += a.at[i] * b.at[i];
    return c;
  }
  static float reduce(T a) { return (a.at[0] + a.at[1]) + (a.at[2] + a.at[3]); }
  static void reduce4(const T (&a)[4], float* to) {
    for (int i = 0; i < 4; ++i) to[i] = reduce(a[i]);
  }
  template <class Index>
  static T gather(const float* base, const Index* index) {
    return gather(base, index, 4);
  }
  template <class Index>
  static T gather(const float* base, const Index* index, Mask m) {
    T a = zero();
    for (int64_t i = 0; i < m; ++i) a.at[i] = base[index[i]];
    return a;
  }
  static T even(T low, T high) { return {{low.at[0], low.at[2], high.at[0], high.at[2]}}; }
  static void transpose(T (&a)[4]) {
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < i; ++j) {
        const float swapped = a[i].at[j];
        a[i].at[j] = a[j].at[i];
        a[j].at[i] = swapped;
      }
  }
};

#include "cpu/bodies.inc.h"

bool supported() { return true; }

const ConvKernel kConv[kConvKernels] = {ConvPanels<Scalar>::kernel(), ConvRows<Scalar>::kernel()};

}  // namespace

extern const Isa kScalar = {"scalar",
                            supported,
                            {LinearDots<Scalar>::kernel(), LinearOutputs<Scalar>::kernel(),
                             LinearRows<Scalar>::kernel(), LinearPanels<Scalar>::kernel()},
                            choose_linear<Scalar>,
                            checksum,
                            widen<Scalar>,
                            narrow<Scalar>,
                            fma_loop<Scalar>,
                            2 * Scalar::width * kPeakChains,
                            read_loop<Scalar>,
                            {GradInputBlocks<Scalar>::kernel(), GradPanels<Scalar>::input_kernel()},
                            {GradValues<Scalar>::kernel(), GradPanels<Scalar>::values_kernel()},
                            kConv};

}  // namespace sparsekern
