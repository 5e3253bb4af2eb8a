#include "cpu/kernels.h"
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
  static constexpr int width = 4, rows = 4, rows_of_pairs = 2, batch_vectors = 4;

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
  static T add(T a, T b) {
    for (int i = 0; i < 4; ++i) a.at[i] += b.at[i];
    return a;
  }
  static T fma(T a, T b, T c) {
    for (int i = 0; i < 4; ++i) c.at[i] += a.at[i] * b.at[i];
    return c;
  }
  static float reduce(T a) { return (a.at[0] + a.at[1]) + (a.at[2] + a.at[3]); }
  static T gather(const float* base, const int32_t* index) { return gather(base, index, 4); }
  static T gather(const float* base, const int32_t* index, Mask m) {
    T a = zero();
    for (int64_t i = 0; i < m; ++i) a.at[i] = base[index[i]];
    return a;
  }
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

}  // namespace

extern const Isa kScalar = {"scalar",
                            supported,
                            VectorLinear<Scalar>::kernel(),
                            UnstructuredLinear<Scalar>::kernel(),
                            fma_loop<Scalar>,
                            2 * Scalar::width * kPeakChains};

}  // namespace sparsekern
