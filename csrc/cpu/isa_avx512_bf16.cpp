#if defined(__x86_64__)
#include <immintrin.h>

#include "cpu/unroll.h"
#include "cpu/words_planes.h"

// GCC 12's own intrinsics trip these two (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(__clang__)
#pragma clang attribute push(                                                               \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512vl,avx512dq,avx512bw,avx512bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")
#endif

namespace sparsekern {
namespace {

#include "cpu/zmm.inc.h"

#include "cpu/tasks.inc.h"

#include "cpu/pack.inc.h"

#include "cpu/activation.inc.h"

#include "cpu/words_finish.inc.h"

// Sums of float32; numbers below 2^-126 count as zero, in x and weights too: the instruction is made so.
struct Pairs {
  using T = __m512;
  static constexpr int rows_of_two = 14;  // 14 rows x 2 vectors of sums + 2 of weights + 1 broadcast

  static T zero() { return _mm512_setzero_ps(); }
  static T add(T a, T b) { return _mm512_add_ps(a, b); }
  static T dot(T sum, __m512i x, __m512i w) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w));
  }
  static __m256i to_bfloat16(__m512 a) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a)); }
  void see(__m512i) {}
  static __m512 value(const WordArgs& a, int64_t, int64_t output, T sum) {
    return a.bias ? Zmm::add(sum, load_outputs(a, a.bias, output)) : sum;
  }
};

#include "cpu/words_pack.inc.h"

#include "cpu/words_outputs.inc.h"

bool supported() { return supports_zmm() && __builtin_cpu_supports("avx512bf16"); }

}  // namespace

extern const WordKernel kDotPairs = {"avx512_bf16",
                                     "avx512",
                                     supported,
                                     0,
                                     WordOutputs<Pairs>::tiles,
                                     WordOutputs<Pairs>::scratch_floats,
                                     WordOutputs<Pairs>::run,
                                     nullptr};

}  // namespace sparsekern

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
