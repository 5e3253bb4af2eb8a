// Included inside each ISA's region. Which kernel runs: by the height of the blocks and the rows of x.
// The figures behind the limits are in docs/measured.md.

// In the order of Isa::linear.
enum LinearKernelId : int { kDots, kOutputs, kRows, kPanels };

template <class Vec>
inline int choose_linear(const LinearArgs& a) {
  constexpr int64_t W = Vec::width;
  const int64_t vectors = (a.m + W - 1) / W;
  if (a.v == 1 && a.m == 1) return kDots;
  if (a.v <= kPanelHeight && vectors >= 4 && a.panels) return kPanels;
  // Lanes that idle: of a short block against those of few rows.
  if (2 * a.v <= W) return a.m < a.v ? kOutputs : kRows;
  // Of the last vector of rows, against the loads that lanes of rows save: fewer in tall blocks.
  const int64_t least = a.v >= 2 * W ? 2 * W : W;
  return a.m >= least && 4 * a.m >= 3 * vectors * W ? kRows : kOutputs;
}
