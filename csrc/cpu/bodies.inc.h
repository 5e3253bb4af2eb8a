// Included inside each ISA's region, behind its vector types: every kernel body, in the order in which they
// build on each other (blank lines keep clang-format from sorting them).
#include "cpu/tasks.inc.h"

#include "cpu/pack.inc.h"

#include "cpu/linear_vector.inc.h"

#include "cpu/linear_unstructured.inc.h"

#include "cpu/peak.inc.h"
