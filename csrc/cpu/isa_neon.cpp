#if defined(__aarch64__)
#include <arm_neon.h>

#include "cpu/conv.h"
#include "cpu/half.h"
#include "cpu/kernels.h"
#include "cpu/panel_index.h"
#include "cpu/unroll.h"

namespace sparsekern {
namespace {

// 32 registers: 4 rows x 2 vectors of sums leave room for the chains that hide latency.
struct Neon {
  using T = float32x4_t;
  using Mask = int64_t;
  static constexpr int width = 4, registers = 32, rows = 4, rows_of_pairs = 4;
  static constexpr int batch_vectors = 6, outputs_at_once = 8;

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
  static T load_bfloat16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
  static T load_float16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static void store_bfloat16(uint16_t* p, T a) {
    float part[4];
    vst1q_f32(part, a);
    for (int i = 0; i < 4; ++i) p[i] = bfloat16_of_float(part[i]);
  }
  static void store_float16(uint16_t* p, T a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a))); }
  static T add(T a, T b) { return vaddq_f32(a, b); }
  static T mul(T a, T b) { return vmulq_f32(a, b); }
  static T div(T a, T b) { return vdivq_f32(a, b); }
  static T max(T a, T b) { return vmaxq_f32(a, b); }
  static T min(T a, T b) { return vminq_f32(a, b); }
  static T fma(T a, T b, T c) { return vfmaq_f32(c, a, b); }
  static float reduce(T a) { return vaddvq_f32(a); }
  static void reduce4(const T (&a)[4], float* to) {
    vst1q_f32(to, vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3])));
  }
  template <class Index>
  static T gather(const float* base, const Index* index) {
    return gather(base, index, 4);
  }
  template <class Index>
  static T gather(const float* base, const Index* index, Mask m) {
    float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int64_t i = 0; i < m; ++i) part[i] = base[index[i]];
    return vld1q_f32(part);
  }
  static T even(T low, T high) { return vuzp1q_f32(low, high); }
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

const ConvKernel kConv[kConvKernels] = {ConvPanels<Neon>::kernel(), ConvRows<Neon>::kernel()};

}  // namespace

extern const Isa kNeon = {"neon",
                          supported,
                          {LinearDots<Neon>::kernel(), LinearOutputs<Neon>::kernel(),
                           LinearRows<Neon>::kernel(), LinearPanels<Neon>::kernel()},
                          choose_linear<Neon>,
                          checksum,
                          widen<Neon>,
                          narrow<Neon>,
                          fma_loop<Neon>,
                          2 * Neon::width * kPeakChains,
                          read_loop<Neon>,
                          {GradInputBlocks<Neon>::kernel(), GradPanels<Neon>::input_kernel()},
                          {GradValues<Neon>::kernel(), GradPanels<Neon>::values_kernel()},
                          kConv};

}  // namespace sparsekern
#endif  // __aarch64__
