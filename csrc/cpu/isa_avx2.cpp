#if defined(__x86_64__)
#include <immintrin.h>

#include "cpu/conv.h"
#include "cpu/kernels.h"
#include "cpu/panel_index.h"
#include "cpu/unroll.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,prfchw"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,prfchw")
#endif

namespace sparsekern {
namespace {

// 16 registers: 6 rows x 2 vectors of sums + 2 of weights + 1 broadcast, or 8 x 1.
struct Ymm {
  using T = __m256;
  using Mask = __m256i;
  static constexpr int width = 8, registers = 16, rows = 8, rows_of_pairs = 6;
  static constexpr int batch_vectors = 6, outputs_at_once = 4;

  static T zero() { return _mm256_setzero_ps(); }
  static T broadcast(float a) { return _mm256_set1_ps(a); }
  static Mask mask(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static T load(const float* p) { return _mm256_loadu_ps(p); }
  static T load(const float* p, Mask m) { return _mm256_maskload_ps(p, m); }
  static void store(float* p, T a) { _mm256_storeu_ps(p, a); }
  static void store(float* p, T a, Mask m) { _mm256_maskstore_ps(p, m, a); }
  static T load_bfloat16(const uint16_t* p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  static T load_float16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_bfloat16(uint16_t* p, T a) {
    const __m256i bits = _mm256_castps_si256(a), one = _mm256_set1_epi32(1);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
  }
  static void store_float16(uint16_t* p, T a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, 0));
  }
  static T add(T a, T b) { return _mm256_add_ps(a, b); }
  static T mul(T a, T b) { return _mm256_mul_ps(a, b); }
  static T div(T a, T b) { return _mm256_div_ps(a, b); }
  static T max(T a, T b) { return _mm256_max_ps(a, b); }
  static T min(T a, T b) { return _mm256_min_ps(a, b); }
  static T fma(T a, T b, T c) { return _mm256_fmadd_ps(a, b, c); }
#include "cpu/ymm.inc.h"
  static T gather(const float* base, const uint16_t* index, Mask m) {
    return _mm256_mask_i32gather_ps(zero(), base, widen(index), _mm256_castsi256_ps(m), 4);
  }
  static T gather(const float* base, const int32_t* index, Mask m) {
    return _mm256_mask_i32gather_ps(zero(), base, _mm256_maskload_epi32(index, m), _mm256_castsi256_ps(m), 4);
  }
};

#include "cpu/bodies.inc.h"

bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const ConvKernel kConv[kConvKernels] = {ConvPanels<Ymm>::kernel(), ConvRows<Ymm>::kernel()};

}  // namespace

extern const Isa kAvx2 = {"avx2",
                          supported,
                          {LinearDots<Ymm>::kernel(), LinearOutputs<Ymm>::kernel(), LinearRows<Ymm>::kernel(),
                           LinearPanels<Ymm>::kernel()},
                          choose_linear<Ymm>,
                          checksum,
                          widen<Ymm>,
                          narrow<Ymm>,
                          fma_loop<Ymm>,
                          2 * Ymm::width * kPeakChains,
                          read_loop<Ymm>,
                          {GradInputBlocks<Ymm>::kernel(), GradPanels<Ymm>::input_kernel()},
                          {GradValues<Ymm>::kernel(), GradPanels<Ymm>::values_kernel()},
                          kConv};

}  // namespace sparsekern

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
