// Included inside each ISA's region. What the core can do at most.

constexpr int kPeakChains = 12;

// Independent FMAs.
template <class Vec>
float fma_loop(int64_t iterations) {
  typename Vec::T acc[kPeakChains];
  const typename Vec::T factor = Vec::broadcast(0.999f), term = Vec::broadcast(0.001f);
  for (int i = 0; i < kPeakChains; ++i) acc[i] = Vec::broadcast(float(i));
  for (int64_t n = 0; n < iterations; ++n) {
    SPARSEKERN_UNROLL
    for (int i = 0; i < kPeakChains; ++i) acc[i] = Vec::fma(acc[i], factor, term);
  }
  typename Vec::T sum = acc[0];
  for (int i = 1; i < kPeakChains; ++i) sum = Vec::add(sum, acc[i]);
  return Vec::reduce(sum);
}

// Independent FMAs with one operand loaded, in rising order, again and again: count, of floats, is a multiple
// of what an iteration reads. Short data stay in L1, others elsewhere, whose bandwidth is the limit then.
template <class Vec>
float read_loop(const float* data, size_t count, int64_t repeats) {
  typename Vec::T acc[kPeakChains];
  const typename Vec::T factor = Vec::broadcast(0.999f);
  for (int i = 0; i < kPeakChains; ++i) acc[i] = Vec::zero();
  for (int64_t n = 0; n < repeats; ++n)
    for (size_t at = 0; at < count; at += kPeakChains * Vec::width) {
      SPARSEKERN_UNROLL
      for (int i = 0; i < kPeakChains; ++i)
        acc[i] = Vec::fma(Vec::load(data + at + i * Vec::width), factor, acc[i]);
    }
  typename Vec::T sum = acc[0];
  for (int i = 1; i < kPeakChains; ++i) sum = Vec::add(sum, acc[i]);
  return Vec::reduce(sum);
}
