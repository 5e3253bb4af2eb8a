// Included inside each ISA's region. Between float32, in which all sums are made, and the 16-bit types.

template <class Vec>
inline typename Vec::T load_as(const uint16_t* from, Dtype dtype) {
  return dtype == Dtype::kBfloat16 ? Vec::load_bfloat16(from) : Vec::load_float16(from);
}

template <class Vec>
void widen(const uint16_t* from, Dtype dtype, float* to, size_t count) {
  constexpr size_t W = Vec::width;
  size_t i = 0;
  for (; i + W <= count; i += W) Vec::store(to + i, load_as<Vec>(from + i, dtype));
  if (i == count) return;
  uint16_t tail[W] = {};
  __builtin_memcpy(tail, from + i, (count - i) * sizeof(uint16_t));
  Vec::store(to + i, load_as<Vec>(tail, dtype), Vec::mask(int64_t(count - i)));
}

// Rounds to nearest, ties to even, as torch does.
template <class Vec>
void narrow(const float* from, Dtype dtype, uint16_t* to, size_t count) {
  constexpr size_t W = Vec::width;
  for (size_t i = 0; i < count; i += W) {
    const bool whole = i + W <= count;
    const auto a = whole ? Vec::load(from + i) : Vec::load(from + i, Vec::mask(int64_t(count - i)));
    uint16_t out[W];
    if (dtype == Dtype::kBfloat16)
      Vec::store_bfloat16(out, a);
    else
      Vec::store_float16(out, a);
    __builtin_memcpy(to + i, out, (whole ? W : count - i) * sizeof(uint16_t));
  }
}
