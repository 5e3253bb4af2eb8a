#if defined(__x86_64__)
#include <immintrin.h>

#include "cpu/conv.h"
#include "cpu/kernels.h"
#include "cpu/panel_index.h"
#include "cpu/unroll.h"

// GCC 12's own intrinsics trip these two (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,f16c,prfchw,avx512f,avx512vl,avx512dq,avx512bw"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,prfchw,avx512f,avx512vl,avx512dq,avx512bw")
#endif

namespace sparsekern {
namespace {

#include "cpu/zmm.inc.h"

// Half vectors: for blocks of at most 8 outputs and batches of at most 8 rows, where half of a Zmm would
// idle.
struct Ymm {
  using T = __m256;
  using Mask = __mmask8;
  static constexpr int width = 8, registers = 32, rows = 8, rows_of_pairs = 8;
  static constexpr int batch_vectors = 1, outputs_at_once = 8;

  static T zero() { return _mm256_setzero_ps(); }
  static T broadcast(float a) { return _mm256_set1_ps(a); }
  static Mask mask(int64_t count) { return Mask((1u << count) - 1); }
  static T load(const float* p) { return _mm256_loadu_ps(p); }
  static T load(const float* p, Mask m) { return _mm256_maskz_loadu_ps(m, p); }
  static void store(float* p, T a) { _mm256_storeu_ps(p, a); }
  static void store(float* p, T a, Mask m) { _mm256_mask_storeu_ps(p, m, a); }
  static T add(T a, T b) { return _mm256_add_ps(a, b); }
  static T mul(T a, T b) { return _mm256_mul_ps(a, b); }
  static T div(T a, T b) { return _mm256_div_ps(a, b); }
  static T max(T a, T b) { return _mm256_max_ps(a, b); }
  static T min(T a, T b) { return _mm256_min_ps(a, b); }
  static T fma(T a, T b, T c) { return _mm256_fmadd_ps(a, b, c); }
#include "cpu/ymm.inc.h"
  static T gather(const float* base, const int32_t* index, Mask m) {
    return _mm256_mmask_i32gather_ps(zero(), m, _mm256_maskz_loadu_epi32(m, index), base, 4);
  }
};

#include "cpu/bodies.inc.h"

// Runs a kernel on half vectors where the lanes' extent (outputs of a block, or rows of x) fits them.
template <template <class> class Kernel, class Args, int64_t Args::* lanes>
struct ByLanes {
  static bool half(const Args& a) { return a.*lanes <= Ymm::width; }
  static int64_t tiles(const Args& a) { return half(a) ? Kernel<Ymm>::tiles(a) : Kernel<Zmm>::tiles(a); }
  static size_t scratch_floats(const Args& a) {
    return half(a) ? Kernel<Ymm>::scratch_floats(a) : Kernel<Zmm>::scratch_floats(a);
  }
  static void run(const Args& a, int64_t begin, int64_t end, float* scratch) {
    half(a) ? Kernel<Ymm>::run(a, begin, end, scratch) : Kernel<Zmm>::run(a, begin, end, scratch);
  }
  static constexpr LinearKernel kernel() {
    return {Kernel<Zmm>::kernel().name, false, Kernel<Zmm>::takes, tiles, scratch_floats, run};
  }
};

bool supported() { return supports_zmm() && __builtin_cpu_supports("fma"); }

const ConvKernel kConv[kConvKernels] = {ConvPanels<Zmm>::kernel(), ConvRows<Zmm>::kernel()};

}  // namespace

extern const Isa kAvx512 = {
    "avx512",
    supported,
    {LinearDots<Zmm>::kernel(), ByLanes<LinearOutputs, LinearArgs, &LinearArgs::v>::kernel(),
     ByLanes<LinearRows, LinearArgs, &LinearArgs::m>::kernel(), LinearPanels<Zmm>::kernel()},
    choose_linear<Zmm>,
    checksum,
    widen<Zmm>,
    narrow<Zmm>,
    fma_loop<Zmm>,
    2 * Zmm::width * kPeakChains,
    read_loop<Zmm>,
    {GradInputBlocks<Zmm>::kernel(), GradPanels<Zmm>::input_kernel()},
    {GradValues<Zmm>::kernel(), GradPanels<Zmm>::values_kernel()},
    kConv};

}  // namespace sparsekern

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
