// Included inside a region with AVX-512, behind Zmm and pack.inc.h. Rows of x, or what the taps of a
// convolution see, to [word][lane].

// As pack_group; of a convolution word (tap, word of a position) of rows that are output positions.
inline void pack_words(const WordArgs& a, int64_t row, int64_t rows, int64_t step, float* tile) {
  constexpr int W = Zmm::width;
  const auto* x = reinterpret_cast<const float*>(a.x);  // only moved, as numbers they mean nothing
  if (!a.map) return pack_group<Zmm>(x + row * a.x_stride, a.x_stride, rows, a.words, step, tile);
  const WordMap& map = *a.map;
  int64_t image[W], top[W], left[W];
  for (int64_t lane = 0; lane < W; ++lane) {
    const int64_t line = (row + lane) / map.out_width;
    image[lane] = line / map.out_height;
    top[lane] = line % map.out_height * map.stride_h - map.pad_top;
    left[lane] = (row + lane) % map.out_width * map.stride_w - map.pad_left;
  }
  for (int64_t tap = 0; tap < map.kh * map.kw; ++tap) {
    const float* from[W];
    for (int64_t lane = 0; lane < W; ++lane) {
      const int64_t down = top[lane] + tap / map.kw * map.dilation_h;
      const int64_t across = left[lane] + tap % map.kw * map.dilation_w;
      const bool inside = lane < rows && down >= 0 && down < map.height && across >= 0 && across < map.width;
      const int64_t position = (image[lane] * map.height + down) * map.width + across;
      from[lane] = inside ? x + position * map.words : nullptr;
    }
    for (int64_t j = 0; j < map.words; j += W) {
      const int64_t wide = map.words - j < W ? map.words - j : W;
      const Zmm::Mask mask = Zmm::mask(wide);
      __m512 block[W];
      for (int lane = 0; lane < W; ++lane)
        block[lane] = from[lane] ? Zmm::load(from[lane] + j, mask) : Zmm::zero();
      Zmm::transpose(block);
      for (int64_t i = 0; i < wide; ++i, tile += step) Zmm::store(tile, block[i]);
    }
  }
}
