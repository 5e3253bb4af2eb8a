// Included inside each region with AVX-512: its vector type.

// 32 registers: 14 rows x 2 vectors of sums + 2 of weights + 1 broadcast, or 16 x 1.
struct Zmm {
  using T = __m512;
  using Mask = __mmask16;
  static constexpr int width = 16, registers = 32, rows = 16, rows_of_pairs = 14;
  static constexpr int batch_vectors = 6, outputs_at_once = 8;

  static T zero() { return _mm512_setzero_ps(); }
  static T broadcast(float a) { return _mm512_set1_ps(a); }
  static Mask mask(int64_t count) { return Mask((1u << count) - 1); }
  static T load(const float* p) { return _mm512_loadu_ps(p); }
  static T load(const float* p, Mask m) { return _mm512_maskz_loadu_ps(m, p); }
  static void store(float* p, T a) { _mm512_storeu_ps(p, a); }
  static void store(float* p, T a, Mask m) { _mm512_mask_storeu_ps(p, m, a); }
  static T load_bfloat16(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  static T load_float16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m256i to_bfloat16(T a) {
    const __m512i bits = _mm512_castps_si512(a), one = _mm512_set1_epi32(1);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd));
    const Mask nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    const __m512i all = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(all, 16));
  }
  static void store_bfloat16(uint16_t* p, T a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bfloat16(a));
  }
  static void store_float16(uint16_t* p, T a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, 0));
  }
  static T add(T a, T b) { return _mm512_add_ps(a, b); }
  static T mul(T a, T b) { return _mm512_mul_ps(a, b); }
  static T div(T a, T b) { return _mm512_div_ps(a, b); }
  static T max(T a, T b) { return _mm512_max_ps(a, b); }
  static T min(T a, T b) { return _mm512_min_ps(a, b); }
  static T fma(T a, T b, T c) { return _mm512_fmadd_ps(a, b, c); }
  static float reduce(T a) { return _mm512_reduce_add_ps(a); }
  static void reduce4(const T (&a)[4], float* to) {
    const T low = add(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
    const T high = add(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
    const T all = add(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xee));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
  static T gather(const float* base, const int32_t* index) {
    return _mm512_i32gather_ps(_mm512_loadu_si512(index), base, 4);
  }
  static __m512i widen(const uint16_t* index) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)));
  }
  static T gather(const float* base, const uint16_t* index) {
    return _mm512_i32gather_ps(widen(index), base, 4);
  }
  static T gather(const float* base, const uint16_t* index, Mask m) {
    return _mm512_mask_i32gather_ps(zero(), m, widen(index), base, 4);
  }
  static T gather(const float* base, const int32_t* index, Mask m) {
    return _mm512_mask_i32gather_ps(zero(), m, _mm512_maskz_loadu_epi32(m, index), base, 4);
  }
  static T even(T low, T high) {  // of two vectors side by side, every second element
    const __m512i step = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_ps(low, step, high);
  }
  static void transpose(T (&a)[16]) {
    T b[16];
    SPARSEKERN_UNROLL
    for (int i = 0; i < 16; i += 2) {  // pairs of rows, then of pairs, then of quarters
      b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    SPARSEKERN_UNROLL
    for (int i = 0; i < 16; i += 4) {
      a[i] = as_ps(_mm512_unpacklo_pd(as_pd(b[i]), as_pd(b[i + 2])));
      a[i + 1] = as_ps(_mm512_unpackhi_pd(as_pd(b[i]), as_pd(b[i + 2])));
      a[i + 2] = as_ps(_mm512_unpacklo_pd(as_pd(b[i + 1]), as_pd(b[i + 3])));
      a[i + 3] = as_ps(_mm512_unpackhi_pd(as_pd(b[i + 1]), as_pd(b[i + 3])));
    }
    SPARSEKERN_UNROLL
    for (int i = 0; i < 4; ++i) {
      b[i] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
      b[i + 4] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
      b[i + 8] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
      b[i + 12] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
    }
    SPARSEKERN_UNROLL
    for (int i = 0; i < 8; ++i) {
      a[i] = _mm512_shuffle_f32x4(b[i], b[i + 8], 0x88);
      a[i + 8] = _mm512_shuffle_f32x4(b[i], b[i + 8], 0xdd);
    }
  }
  static __m512d as_pd(T a) { return _mm512_castps_pd(a); }
  static T as_ps(__m512d a) { return _mm512_castpd_ps(a); }
};

inline bool supports_zmm() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
