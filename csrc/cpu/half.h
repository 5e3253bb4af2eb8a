// 16-bit floats one by one, for vector types without instructions for them.
#pragma once

#include <cstdint>
#include <cstring>

namespace sparsekern {

inline float float_of_bits(uint32_t bits) {
  float a;
  std::memcpy(&a, &bits, sizeof a);
  return a;
}
inline uint32_t bits_of_float(float a) {
  uint32_t bits;
  std::memcpy(&bits, &a, sizeof bits);
  return bits;
}

inline float float_of_bfloat16(uint16_t a) { return float_of_bits(uint32_t(a) << 16); }

inline uint16_t bfloat16_of_float(float a) {
  const uint32_t bits = bits_of_float(a);
  if (a != a) return uint16_t(bits >> 16 | 0x40);  // stays a NaN, a quiet one
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float float_of_float16(uint16_t a) {
  const uint32_t sign = uint32_t(a & 0x8000) << 16, magnitude = a & 0x7fff;
  if (magnitude >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // The exponent of a subnormal is off by the same factor as a normal's.
  return float_of_bits(sign | bits_of_float(float_of_bits(magnitude << 13) * 0x1p112f));
}

inline uint16_t float16_of_float(float a) {
  const uint32_t bits = bits_of_float(a), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds to infinity
  if (magnitude < 0x38800000)                                   // subnormal: the sum rounds at bit 24
    return uint16_t(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000));
  return uint16_t(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

}  // namespace sparsekern
