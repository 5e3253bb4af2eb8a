// Included inside each ISA's region. A loop of independent FMAs: what the core can do at most.

constexpr int kPeakChains = 12;

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
