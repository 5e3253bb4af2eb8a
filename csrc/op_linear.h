// sparsekern::cpu_linear, the op behind every sparse Linear on the CPU: called by torch's dispatcher without
// a detour through Python.
#pragma once

#include "cpu/kernels.h"

namespace sparsekern {

enum LinearKernelId : int64_t { kVector = 0, kUnstructured = 1 };

extern const Isa*
    current_isa;  // Python sets it at import, from SPARSEKERN_ISA or by detection; tests change it

void register_linear();  // Python has defined the schema; this adds the CPU implementation

}  // namespace sparsekern
