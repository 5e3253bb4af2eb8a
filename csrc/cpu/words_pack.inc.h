// Included inside a region with AVX-512, behind Zmm. What lanes [begin, end) of all planes hold, to `planes`,
// which start with lane `base` and are `length` words each; `begin` is a whole number of vectors from there,
// and the last vector is filled.
inline void pack_planes(const WordPlanes& p, int64_t begin, int64_t end, int64_t base, int64_t length,
                        float* planes) {
  constexpr int W = Zmm::width;
  for (size_t phase = 0; phase < p.phases.size(); ++phase, planes += p.map.words * length)
    for (int64_t lane = begin; lane < end; lane += W) {
      const uint32_t* from[W];
      p.sources(p.phases[phase], lane, from);
      float* to = planes + lane - base;
      for (int64_t j = 0; j < p.map.words; j += W) {
        const int64_t wide = p.map.words - j < W ? p.map.words - j : W;
        const Zmm::Mask mask = Zmm::mask(wide);
        __m512 block[W];
        SPARSEKERN_UNROLL
        for (int i = 0; i < W; ++i)  // only moved, as numbers they mean nothing
          block[i] = from[i] ? Zmm::load(reinterpret_cast<const float*>(from[i]) + j, mask) : Zmm::zero();
        Zmm::transpose(block);
        for (int64_t i = 0; i < wide; ++i, to += length) Zmm::store(to, block[i]);
      }
    }
}
