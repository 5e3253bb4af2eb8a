// Included inside a region with AVX-512, behind Zmm and the activations: from a sum to y.

inline __m512 activated(__m512 y, Activation activation) {
  if (activation == Activation::kRelu) return Zmm::max(Zmm::zero(), y);  // NaN stays
  return activation == Activation::kGelu ? gelu<Zmm>(y) : y;
}

// Sixteen outputs of a row, fewer at the right edge.
template <class Dot>
inline void store_outputs(const WordArgs& a, int64_t row, int64_t output, __m512 sums) {
  const __m512 y = activated(sums, a.activation);
  const int64_t left = a.n - output, to = row * a.n + output;
  const Zmm::Mask mask = Zmm::mask(left < Zmm::width ? left : Zmm::width);
  if (a.dtype == Dtype::kFloat32)
    Zmm::store(static_cast<float*>(a.y) + to, y, mask);
  else
    _mm256_mask_storeu_epi16(static_cast<uint16_t*>(a.y) + to, mask, Dot::to_bfloat16(y));
}

inline __m512 load_outputs(const WordArgs& a, const float* from, int64_t output) {
  const int64_t left = a.n - output;
  return Zmm::load(from + output, Zmm::mask(left < Zmm::width ? left : Zmm::width));
}
