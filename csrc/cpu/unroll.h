// What a compiler must do for the kernels to be what they are. Loops over register arrays must be unrolled
// completely, or the arrays live in memory.
#pragma once
#if defined(__clang__)
#define SPARSEKERN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SPARSEKERN_UNROLL _Pragma("GCC unroll 16")
#endif
// A call in an inner loop costs the saving of registers, and vzeroupper.
#define SPARSEKERN_INLINE inline __attribute__((always_inline))

// Asks for the line of p, into L2. GCC 12 takes a function that does nothing but prefetch for one without
// effect, and deletes its calls; the empty asm is an effect.
SPARSEKERN_INLINE void prefetch_line(const void* p) {
  __builtin_prefetch(p, 0, 2);
  asm volatile("");
}

// The same, to be written soon.
SPARSEKERN_INLINE void prefetch_to_write(const void* p) {
  __builtin_prefetch(p, 1, 2);
  asm volatile("");
}
