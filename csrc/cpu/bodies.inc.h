// Included inside each ISA's region, behind its vector types: every kernel body, in the order in which they
// build on each other (blank lines keep clang-format from sorting them).
#include "cpu/tasks.inc.h"

#include "cpu/pack.inc.h"

#include "cpu/convert.inc.h"

#include "cpu/activation.inc.h"

#include "cpu/linear_dots.inc.h"

#include "cpu/linear_outputs.inc.h"

#include "cpu/linear_rows.inc.h"

#include "cpu/linear_panels.inc.h"

#include "cpu/conv_pack.inc.h"

#include "cpu/conv_panels.inc.h"

#include "cpu/conv_rows.inc.h"

#include "cpu/grad_panels.inc.h"

#include "cpu/grad_blocks.inc.h"

#include "cpu/grad_short.inc.h"

#include "cpu/choose_linear.inc.h"

#include "cpu/checksum.inc.h"

#include "cpu/peak.inc.h"
