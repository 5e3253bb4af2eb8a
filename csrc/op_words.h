// sparsekern::cpu_linear_pairs, cpu_conv2d_pairs and cpu_linear_int8: products with blocks whose inputs are
// multiplied a word at a time.
#pragma once

#include "cpu/words.h"

namespace sparsekern {

// Those of `kernels` that this machine can run and the ISA in use allows, best first.
std::vector<const WordKernel*> usable(const std::vector<const WordKernel*>& kernels);

// Of the usable ones the first that is worth while for m rows, else the last. Throws std::invalid_argument if
// there is none.
const WordKernel& choose_word_kernel(const std::vector<const WordKernel*>& kernels, int64_t m);

// Python has defined the schemas; this adds the CPU implementations.
void register_words();

}  // namespace sparsekern
