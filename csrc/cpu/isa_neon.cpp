#if defined(__aarch64__)
#include <arm_neon.h>

#include "cpu/kernels.h"
#include "cpu/unroll.h"

namespace sparsekern {
namespace {

// 32 registers: 4 rows x 2 vectors of sums leave room for the chains that hide latency.
struct Neon {
  using T = float32x4_t;
  using Mask = int64_t;
  static constexpr int width = 4, rows = 4, rows_of_pairs = 4, batch_vectors = 4;

  static T zero() { return vdupq_n_f32(0.0f); }
  static T broadcast(float a) { return vdupq_n_f32(a); }
  static Mask mask(int64_t count) { return count; }
  static T load(const float* p) { return vld1q_f32(p); }
  static T load(const float* p, Mask m) {
    float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int64_t i = 0; i < m; ++i) part[i] = p[i];
    return vld1q_f32(part);
  }
  static void store(float* p, T a) { vst1q_f32(p, a); }
  static void store(float* p, T a, Mask m) {
    float part[4];
    vst1q_f32(part, a);
    for (int64_t i = 0; i < m; ++i) p[i] = part[i];
  }
  static T add(T a, T b) { return vaddq_f32(a, b); }
  static T fma(T a, T b, T c) { return vfmaq_f32(c, a, b); }
  static float reduce(T a) { return vaddvq_f32(a); }
  static T gather(const float* base, const int32_t* index) { return gather(base, index, 4); }
  static T gather(const float* base, const int32_t* index, Mask m) {
    float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int64_t i = 0; i < m; ++i) part[i] = base[index[i]];
    return vld1q_f32(part);
  }
  static void transpose(T (&a)[4]) {
    const float32x4x2_t low = vtrnq_f32(a[0], a[1]), high = vtrnq_f32(a[2], a[3]);
    a[0] = vcombine_f32(vget_low_f32(low.val[0]), vget_low_f32(high.val[0]));
    a[1] = vcombine_f32(vget_low_f32(low.val[1]), vget_low_f32(high.val[1]));
    a[2] = vcombine_f32(vget_high_f32(low.val[0]), vget_high_f32(high.val[0]));
    a[3] = vcombine_f32(vget_high_f32(low.val[1]), vget_high_f32(high.val[1]));
  }
};

#include "cpu/bodies.inc.h"

bool supported() { return true; }  // part of the aarch64 baseline

}  // namespace

extern const Isa kNeon = {"neon",
                          supported,
                          VectorLinear<Neon>::kernel(),
                          UnstructuredLinear<Neon>::kernel(),
                          fma_loop<Neon>,
                          2 * Neon::width * kPeakChains};

}  // namespace sparsekern
#endif  // __aarch64__
