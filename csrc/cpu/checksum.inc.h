// Included inside each ISA's region. Tells whether values are still the ones that were copied.
//
// Sums of products of neighbouring words, each mixed with a key that depends on where it stands (the idea of
// XXH3's accumulators, github.com/Cyan4973/xxHash): a change of one value, a scaling, a flipped sign or a
// swap shows, but for a chance of about 2^-64. Eight sums side by side fill the vectors; it reads as fast as
// L2 gives.
constexpr int64_t kChecksumLanes = 8;

inline uint64_t mix(uint64_t a) {
  a = (a ^ (a >> 32)) * 0xd6e8feb86659fd93u;
  a = (a ^ (a >> 32)) * 0xd6e8feb86659fd93u;
  return a ^ (a >> 32);
}

inline uint64_t checksum(const void* data, size_t bytes) {
  constexpr size_t kStep = sizeof(uint64_t) * kChecksumLanes;
  const auto* at = static_cast<const unsigned char*>(data);
  uint64_t sum[kChecksumLanes], key[kChecksumLanes], word[kChecksumLanes];
  for (int64_t i = 0; i < kChecksumLanes; ++i) {
    sum[i] = bytes;
    key[i] = mix(uint64_t(i) + 0x9e3779b97f4a7c15u);
  }
  const auto add = [&] {
    for (int64_t i = 0; i < kChecksumLanes; ++i) {
      const uint64_t mixed = word[i] ^ key[i];
      sum[i] += (mixed & 0xffffffffu) * (mixed >> 32) + (word[i] << 32 | word[i] >> 32);
      key[i] += 0x9e3779b97f4a7c15u;
    }
  };
  size_t i = 0;
  for (; i + kStep <= bytes; i += kStep) {
    __builtin_memcpy(word, at + i, kStep);
    add();
  }
  if (i < bytes) {
    __builtin_memset(word, 0, kStep);
    __builtin_memcpy(word, at + i, bytes - i);
    add();
  }
  uint64_t all = 0;
  for (int64_t lane = 0; lane < kChecksumLanes; ++lane) all = mix(all ^ sum[lane]) + sum[lane];
  return all;
}
