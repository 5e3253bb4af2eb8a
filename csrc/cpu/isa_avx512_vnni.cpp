#if defined(__x86_64__)
#include <immintrin.h>

#include "cpu/half.h"
#include "cpu/unroll.h"
#include "cpu/words_planes.h"

// GCC 12's own intrinsics trip these two (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(__clang__)
#pragma clang attribute push(                                                               \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512vl,avx512dq,avx512bw,avx512vnni"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512vl,avx512dq,avx512bw,avx512vnni")
#endif

namespace sparsekern {
namespace {

#include "cpu/zmm.inc.h"

#include "cpu/tasks.inc.h"

#include "cpu/pack.inc.h"

#include "cpu/activation.inc.h"

#include "cpu/words_finish.inc.h"

#include "cpu/words_quantize.inc.h"

// Sums of int32. The instruction wants one side unsigned, so x is offset by 128, and 128 times the sum of the
// weights, made along the way, is taken off again.
struct Quads {
  using T = __m512i;
  static constexpr int rows_of_two = 12;  // 12 rows x 2 vectors of sums + 2 of offsets + 2 of weights + 2
  T offset;

  Quads() : offset(zero()) {}
  static T zero() { return _mm512_setzero_si512(); }
  static T add(T a, T b) { return _mm512_add_epi32(a, b); }
  static T dot(T sum, __m512i x, __m512i w) { return _mm512_dpbusd_epi32(sum, x, w); }
  static __m256i to_bfloat16(__m512 a) { return Zmm::to_bfloat16(a); }
  void see(__m512i w) { offset = dot(offset, _mm512_set1_epi8(char(0x80)), w); }
  __m512 value(const WordArgs& a, int64_t row, int64_t output, T sum) const {
    const __m512 scale = Zmm::mul(load_outputs(a, a.scales, output), Zmm::broadcast(a.x_scales[row]));
    const __m512 y = Zmm::mul(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, offset)), scale);
    return a.bias ? Zmm::add(y, load_outputs(a, a.bias, output)) : y;
  }
};

#include "cpu/words_pack.inc.h"

#include "cpu/words_outputs.inc.h"

bool supported() { return supports_zmm() && __builtin_cpu_supports("avx512vnni"); }

}  // namespace

extern const WordKernel kDotQuads = {"avx512_vnni",
                                     "avx512",
                                     supported,
                                     0,
                                     WordOutputs<Quads>::tiles,
                                     WordOutputs<Quads>::scratch_floats,
                                     WordOutputs<Quads>::run,
                                     quantize_row<true>};

}  // namespace sparsekern

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
