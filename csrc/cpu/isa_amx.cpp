#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/half.h"
#include "cpu/unroll.h"
#include "cpu/words_planes.h"

// GCC 12's own intrinsics trip these two (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(__clang__)
#pragma clang attribute push(                                                                               \
    __attribute__((                                                                                         \
        target("avx2,fma,f16c,avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,amx-tile,amx-bf16,amx-int8"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,amx-tile,amx-bf16,amx-int8")
#endif

namespace sparsekern {
namespace {

#include "cpu/zmm.inc.h"

#include "cpu/tasks.inc.h"

#include "cpu/pack.inc.h"

#include "cpu/activation.inc.h"

#include "cpu/words_finish.inc.h"

// rows[r] = column r of block, rounded.
inline void transpose_to_bfloat16(const __m512 (&block)[16], __m256i (&rows)[16]) {
  alignas(64) static constexpr uint16_t kPairs[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i pairs = _mm512_load_si512(kPairs);
  __m512i a[8], b[8];
  SPARSEKERN_UNROLL
  for (int i = 0; i < 8; ++i)
    a[i] = _mm512_permutexvar_epi16(
        pairs, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(block[2 * i + 1], block[2 * i])));
  SPARSEKERN_UNROLL
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  SPARSEKERN_UNROLL
  for (int i = 0; i < 8; i += 4) {  // a[i + j], lane l: row 4 l + j, outputs 2 i to 2 i + 7
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  SPARSEKERN_UNROLL
  for (int j = 0; j < 4; ++j) {
    const __m512i first = _mm512_permutex2var_epi64(a[j], low, a[j + 4]);
    const __m512i second = _mm512_permutex2var_epi64(a[j], high, a[j + 4]);
    rows[j] = _mm512_castsi512_si256(first);
    rows[j + 4] = _mm512_extracti64x4_epi64(first, 1);
    rows[j + 8] = _mm512_castsi512_si256(second);
    rows[j + 12] = _mm512_extracti64x4_epi64(second, 1);
  }
}

struct Pairs {
  static constexpr bool pairs = true;
  static __m512 value_of_rows(const WordArgs& a, const int64_t*, int64_t output, const float* sums) {
    const __m512 sum = Zmm::load(sums);
    return a.bias ? Zmm::add(sum, Zmm::broadcast(a.bias[output])) : sum;
  }
};

struct Quads {
  static constexpr bool pairs = false;
  static __m512 value_of_rows(const WordArgs& a, const int64_t* rows, int64_t output, const float* sums) {
    const int64_t left = a.m - rows[0];
    const __m512 scales =
        Zmm::load(a.x_scales + rows[0], Zmm::mask(left < kWordOutputs ? left : kWordOutputs));
    const __m512 y = Zmm::mul(_mm512_cvtepi32_ps(_mm512_loadu_si512(sums)),
                              Zmm::mul(scales, Zmm::broadcast(a.scales[output])));
    return a.bias ? Zmm::add(y, Zmm::broadcast(a.bias[output])) : y;
  }
};

#include "cpu/words_quantize.inc.h"

#include "cpu/words_pack.inc.h"

#include "cpu/words_tiles.inc.h"

// Linux lends the registers of tiles to a process that asks for them, once for all of its threads.
bool tiles_are_ours() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

bool supports_pairs() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("amx-tile") &&
         __builtin_cpu_supports("amx-bf16") && tiles_are_ours();
}

bool supports_quads() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("amx-tile") &&
         __builtin_cpu_supports("amx-int8") && tiles_are_ours();
}

// With fewer, transposing the weights and the idle columns of tiles cost more than the other kernels.
constexpr int64_t kLeastRowsOfPairs = 6, kLeastRowsOfQuads = 16;

}  // namespace

extern const WordKernel kAmxPairs = {"amx_bf16",
                                     "avx512",
                                     supports_pairs,
                                     kLeastRowsOfPairs,
                                     WordTiles<Pairs>::tiles,
                                     WordTiles<Pairs>::scratch_floats,
                                     WordTiles<Pairs>::run,
                                     nullptr};

extern const WordKernel kAmxQuads = {"amx_int8",
                                     "avx512",
                                     supports_quads,
                                     kLeastRowsOfQuads,
                                     WordTiles<Quads>::tiles,
                                     WordTiles<Quads>::scratch_floats,
                                     WordTiles<Quads>::run,
                                     quantize_row<false>};

}  // namespace sparsekern

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__ && __linux__
