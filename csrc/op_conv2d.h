// sparsekern::cpu_conv2d, the op behind every sparse Conv2d on the CPU.
#pragma once

#include <cstdint>

namespace sparsekern {

// Which of Isa::conv runs blocks (v, 1).
int64_t choose_conv2d(int64_t v);

// Python has defined the schema; this adds the CPU implementation.
void register_conv2d();

}  // namespace sparsekern
