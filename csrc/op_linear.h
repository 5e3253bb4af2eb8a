// sparsekern::cpu_linear, the op behind every sparse Linear on the CPU: called by torch's dispatcher without
// a detour through Python.
#pragma once

#include "cpu/kernels.h"

namespace sparsekern {

constexpr int64_t kChooseKernel = -1;

// The best that this machine supports, unless Python changes it: for SPARSEKERN_ISA at import, in tests
// later.
extern const Isa* current_isa;

// Python has defined the schema; this adds the CPU implementation.
void register_linear();

}  // namespace sparsekern
