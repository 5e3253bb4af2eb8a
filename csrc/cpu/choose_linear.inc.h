// Included inside each ISA's region. Which kernel runs: by the height of the blocks and the rows of x.
// The figures behind the limits are in docs/measured.md.

// In the order of Isa::linear.
enum LinearKernelId : int { kDots, kOutputs, kRows, kPanels };

template <class Vec>
inline int choose_linear(const LinearArgs& a) {
  constexpr int64_t W = Vec::width;
  const int64_t vectors = (a.m + W - 1) / W;
  if (a.v == 1 && a.m == 1) return kDots;
  if (a.v <= kPanelHeight && vectors >= 3 && a.panels) return kPanels;
  if (a.v < W / 2) return a.m <= 2 ? kOutputs : kRows;
  // Lanes that idle cost more than the loads that lanes of rows save.
  return a.m >= 2 * W && 4 * a.m >= 3 * vectors * W ? kRows : kOutputs;
}
