// Which ISA runs: a list, best first. Compiled for the platform's baseline.
#include <iterator>
#include <stdexcept>

#include "cpu/kernels.h"

namespace sparsekern {

#if defined(__x86_64__)
extern const Isa kAvx512, kAvx2;
#elif defined(__aarch64__)
extern const Isa kNeon;
#endif
extern const Isa kScalar;

const Isa* const kIsas[] = {
#if defined(__x86_64__)
    &kAvx512,
    &kAvx2,
#elif defined(__aarch64__)
    &kNeon,
#endif
    &kScalar,  // always last: runs everywhere
};

std::vector<const Isa*> isas() { return {std::begin(kIsas), std::end(kIsas)}; }

static std::string supported_names() {
  std::string names;
  for (const Isa* isa : kIsas)
    if (isa->supported()) names += std::string(names.empty() ? "" : ", ") + isa->name;
  return names;
}

const Isa& isa_by_name(const std::string& name) {
  std::string known;
  for (const Isa* isa : kIsas) {
    if (name == isa->name) {
      if (!isa->supported())
        throw std::invalid_argument("ISA '" + name +
                                    "': this machine lacks it; it has: " + supported_names());
      return *isa;
    }
    known += std::string(known.empty() ? "" : ", ") + isa->name;
  }
  throw std::invalid_argument("ISA '" + name + "' is unknown; this build has: " + known);
}

const Isa& best_isa() {
  for (const Isa* isa : kIsas)
    if (isa->supported()) return *isa;
  return kScalar;
}

}  // namespace sparsekern
