// Included inside each ISA's region. What a layer applies to its outputs, while they are still in L1.

// GELU, 0.5 y (1 + erf(y / sqrt 2)) (Hendrycks & Gimpel 2016, arXiv:1606.08415). The coefficients are a
// rational least-squares fit of erf(y / sqrt 2) / y in y^2 on |y| < 5.7: off by at most 3e-7 |y| after
// rounding.
template <class Vec>
inline typename Vec::T gelu(typename Vec::T y) {
  using T = typename Vec::T;
  constexpr float kTop[] = {0.7978842258453369f,    0.076651431620121f,     0.009336316026747227f,
                            0.0003896163252647966f, 6.970773029024713e-06f, -4.387534957572825e-08f,
                            2.0907896247646107e-10f};
  constexpr float kBottom[] = {1.0f, 0.26273205876350403f, 0.030495518818497658f, 0.0019740441348403692f,
                               7.024865772109479e-05f};
  const T z = Vec::max(Vec::min(y, Vec::broadcast(5.7f)), Vec::broadcast(-5.7f)), t = Vec::mul(z, z);
  T top = Vec::broadcast(kTop[6]), bottom = Vec::broadcast(kBottom[4]);
  SPARSEKERN_UNROLL
  for (int i = 5; i >= 0; --i) top = Vec::fma(top, t, Vec::broadcast(kTop[i]));
  SPARSEKERN_UNROLL
  for (int i = 3; i >= 0; --i) bottom = Vec::fma(bottom, t, Vec::broadcast(kBottom[i]));
  const T one = Vec::broadcast(1.0f);
  const T erf = Vec::max(Vec::min(Vec::div(Vec::mul(z, top), bottom), one), Vec::broadcast(-1.0f));
  return Vec::mul(Vec::mul(Vec::broadcast(0.5f), y), Vec::add(one, erf));
}

template <class Vec, class Function>
inline void for_each_vector(float* y, int64_t y_stride, int64_t rows, int64_t columns, Function function) {
  constexpr int W = Vec::width;
  for (int64_t row = 0; row < rows; ++row, y += y_stride) {
    int64_t j = 0;
    for (; j + W <= columns; j += W) Vec::store(y + j, function(Vec::load(y + j)));
    if (j < columns) {
      const typename Vec::Mask mask = Vec::mask(columns - j);
      Vec::store(y + j, function(Vec::load(y + j, mask)), mask);
    }
  }
}

template <class Vec>
inline void activate_rows(float* y, int64_t y_stride, int64_t rows, int64_t columns, Activation activation) {
  if (activation == Activation::kRelu)
    for_each_vector<Vec>(y, y_stride, rows, columns,
                         [](auto a) { return Vec::max(Vec::zero(), a); });  // NaN stays
  else if (activation == Activation::kGelu)
    for_each_vector<Vec>(y, y_stride, rows, columns, [](auto a) { return gelu<Vec>(a); });
}
