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
