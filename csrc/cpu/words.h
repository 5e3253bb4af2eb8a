// Kernels for blocks whose inputs are multiplied a 32-bit word at a time: (v, 2) of bfloat16, "pairs", and
// (v, 4) of int8, "quads", v a multiple of 16. Sixteen outputs of a block lie in memory as one vector, and as
// one row of an AMX tile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

namespace sparsekern {

constexpr int64_t kWordOutputs = 16;  // outputs of a block that are computed side by side

// Of a convolution: rows of x are what output positions see, for each tap the words of one position of an
// image that lies channels last, zeros where that is outside. Columns are (tap, word).
struct WordMap {
  int64_t height, width, words;  // of an image; words of a position
  int64_t out_height, out_width, kh, kw, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
};

// y[m][n] = activation(x W^T + bias), W in block-sparse rows as LinearArgs says, but of words: the word of
// nonzero block j and its output i at values[j * v + i].
struct WordArgs {
  const uint32_t* x;   // of a ragged last word, what lies beyond the inputs is zero
  int64_t x_stride;    // words from one row of x to the next
  const WordMap* map;  // of a convolution, else null
  const uint32_t* values;
  const int32_t* crow;
  const int32_t* col;     // in words
  const float* bias;      // may be null
  const float* x_scales;  // quads: what 1 stands for in each row of x,
  const float* scales;    // and in the weights of each output
  void* y;
  Dtype dtype;  // of y: kFloat32 or kBfloat16
  int64_t m, n, words, v;
  uint32_t last_word;  // the bits of weights in the last column that are inputs; the others may be anything
  int64_t chunks;      // every tile of rows of x is cut into this many tasks, by nonzeros
  Activation activation;

  int64_t block_rows() const { return (n + v - 1) / v; }
  int64_t work() const { return m * (crow[block_rows()] * v + n + words); }  // of words
};

struct WordKernel {
  const char* name;
  const char* isa;  // that must be in use, null for any
  bool (*supported)();
  int64_t least_rows;  // of x, for which it is worth while where another is there too
  int64_t (*tiles)(const WordArgs&);
  size_t (*scratch_floats)(const WordArgs&);  // scratch of one thread, 64-byte aligned
  void (*run)(const WordArgs&, int64_t begin, int64_t end, float* scratch);
  // Quads: k inputs of a row as the kernel wants them, and what 1 stands for. Null for pairs.
  void (*quantize)(const float* x, int64_t k, uint32_t* words, float* scale);
};

// What a row is multiplied with before it is rounded to int8, given its largest magnitude. Rows below
// 2^-100 are taken for zero, since their factor may overflow; NaN and infinity make the scale NaN.
inline float quantize_factor(float largest, float* scale) {
  const bool finite = largest <= 3.402823466e38f, large = largest >= 0x1p-100f;
  *scale = finite ? (large ? largest / 127 : 0.0f) : largest - largest;
  return finite && large ? 127 / largest : 0.0f;
}

// Compiled in, best first.
const std::vector<const WordKernel*>& pair_kernels();
const std::vector<const WordKernel*>& quad_kernels();

}  // namespace sparsekern
