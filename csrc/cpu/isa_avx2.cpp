#if defined(__x86_64__)
#include <immintrin.h>

#include "cpu/kernels.h"
#include "cpu/unroll.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace sparsekern {
namespace {

// 16 registers: 6 rows x 2 vectors of sums + 2 of weights + 1 broadcast, or 8 x 1.
struct Ymm {
  using T = __m256;
  using Mask = __m256i;
  static constexpr int width = 8, rows = 8, rows_of_pairs = 6, batch_vectors = 4;

  static T zero() { return _mm256_setzero_ps(); }
  static T broadcast(float a) { return _mm256_set1_ps(a); }
  static Mask mask(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static T load(const float* p) { return _mm256_loadu_ps(p); }
  static T load(const float* p, Mask m) { return _mm256_maskload_ps(p, m); }
  static void store(float* p, T a) { _mm256_storeu_ps(p, a); }
  static void store(float* p, T a, Mask m) { _mm256_maskstore_ps(p, m, a); }
  static T add(T a, T b) { return _mm256_add_ps(a, b); }
  static T fma(T a, T b, T c) { return _mm256_fmadd_ps(a, b, c); }
#include "cpu/ymm.inc.h"
  static T gather(const float* base, const int32_t* index, Mask m) {
    return _mm256_mask_i32gather_ps(zero(), base, _mm256_maskload_epi32(index, m), _mm256_castsi256_ps(m), 4);
  }
};

#include "cpu/bodies.inc.h"

bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

extern const Isa kAvx2 = {"avx2",
                          supported,
                          VectorLinear<Ymm>::kernel(),
                          UnstructuredLinear<Ymm>::kernel(),
                          fma_loop<Ymm>,
                          2 * Ymm::width * kPeakChains};

}  // namespace sparsekern

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
