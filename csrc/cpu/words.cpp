// Which kernels for words of inputs there are: lists, best first. Compiled for the platform's baseline.
#include "cpu/words.h"

namespace sparsekern {

#if defined(__x86_64__) && defined(__linux__)
extern const WordKernel kAmxPairs, kAmxQuads;
#endif
#if defined(__x86_64__)
extern const WordKernel kDotPairs, kDotQuads;
#endif
extern const WordKernel kScalarQuads;

const std::vector<const WordKernel*>& pair_kernels() {
  static const std::vector<const WordKernel*> kernels = {
#if defined(__x86_64__) && defined(__linux__)
      &kAmxPairs,
#endif
#if defined(__x86_64__)
      &kDotPairs,
#endif
  };
  return kernels;
}

const std::vector<const WordKernel*>& quad_kernels() {
  static const std::vector<const WordKernel*> kernels = {
#if defined(__x86_64__) && defined(__linux__)
      &kAmxQuads,
#endif
#if defined(__x86_64__)
      &kDotQuads,
#endif
      &kScalarQuads,  // runs everywhere
  };
  return kernels;
}

}  // namespace sparsekern
