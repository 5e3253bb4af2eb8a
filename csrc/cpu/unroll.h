// Loops over register arrays must be unrolled completely, or the arrays live in memory.
#pragma once
#if defined(__clang__)
#define SPARSEKERN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SPARSEKERN_UNROLL _Pragma("GCC unroll 16")
#endif
