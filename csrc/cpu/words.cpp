// Which kernels for words of inputs there are: lists, best first. Compiled for the platform's baseline.
#include "cpu/words.h"

namespace sparsekern {

#if defined(__x86_64__) && defined(__linux__)
extern const WordKernel kAmxPairs, kDotPairs;

std::vector<const WordKernel*> pair_kernels() { return {&kAmxPairs, &kDotPairs}; }
#else
std::vector<const WordKernel*> pair_kernels() { return {}; }
#endif

}  // namespace sparsekern
