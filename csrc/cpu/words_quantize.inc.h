// Included inside a region with AVX-512, behind Zmm. A row of x as int8, four inputs to a word.
//
// x is about scale * q, scale the largest |x| over 127, q = round(x * (127 / largest)) in [-127, 127], ties
// to even. Offset: q + 128 is stored instead, unsigned; so is what fills up the last word, whose weights thus
// count for nothing.
template <bool kOffset>
void quantize_row(const float* x, int64_t k, uint32_t* words, float* scale) {
  constexpr int64_t W = Zmm::width;
  const int64_t whole = k / W * W, bytes = (k + 3) / 4 * 4;
  const Zmm::Mask rest = Zmm::mask(k - whole);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const auto larger = [&](__m512i most, __m512 a) {  // as integers NaN is above all numbers
    return _mm512_max_epi32(most, _mm512_and_si512(_mm512_castps_si512(a), magnitude));
  };
  __m512i most = larger(_mm512_setzero_si512(), Zmm::load(x + whole, rest));
  for (int64_t j = 0; j < whole; j += W) most = larger(most, Zmm::load(x + j));
  const float factor = quantize_factor(float_of_bits(uint32_t(_mm512_reduce_max_epi32(most))), scale);
  const __m128i offset = _mm_set1_epi8(kOffset ? char(0x80) : char(0));
  auto* to = reinterpret_cast<char*>(words);
  const auto rounded = [&](__m512 a) {
    const __m512i q = _mm512_cvtps_epi32(Zmm::mul(a, Zmm::broadcast(factor)));
    return _mm_xor_si128(_mm512_cvtepi32_epi8(q), offset);
  };
  if (factor > 0) {
    for (int64_t j = 0; j < whole; j += W)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + j), rounded(Zmm::load(x + j)));
    _mm_mask_storeu_epi8(to + whole, Zmm::mask(bytes - whole), rounded(Zmm::load(x + whole, rest)));
  } else {  // zero of infinities and NaN too
    __builtin_memset(to, kOffset ? 0x80 : 0, size_t(bytes));
  }
}
