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

// Independent loads, in rising order; count is a multiple of 8 vectors.
template <class Vec>
float read_loop(const float* data, size_t count) {
  constexpr int kLoads = 8;
  typename Vec::T acc[kLoads];
  for (int i = 0; i < kLoads; ++i) acc[i] = Vec::zero();
  for (size_t at = 0; at + kLoads * Vec::width <= count; at += kLoads * Vec::width) {
    SPARSEKERN_UNROLL
    for (int i = 0; i < kLoads; ++i) acc[i] = Vec::add(acc[i], Vec::load(data + at + i * Vec::width));
  }
  typename Vec::T sum = acc[0];
  for (int i = 1; i < kLoads; ++i) sum = Vec::add(sum, acc[i]);
  return Vec::reduce(sum);
}
