// Convolution as a product: how output positions lie in vectors, and where the inputs of a tap are.
//
// Lanes are output positions. An image, or for small maps a segment of its rows, is a slot of `columns`
// positions wide and `rows` high. Slots lie side by side, and are cut into strips as wide as a vector: a
// strip has one vector of positions in each row. A tile is some rows of one strip.
//
// For a tile the inputs are copied once. For every live channel and every tap kx across there is a plane: the
// rows of x that the tile needs, with just those columns that stand under the strip's positions for that kx.
// Stride, padding and dilation across are gone with that, and what a tap ky down wants are consecutive
// vectors of its plane: with a stride down, rows of one remainder lie together (a phase). So every load of a
// kernel is one aligned vector, whatever the convolution. It is kw copies of the tile's input, not the kh *
// kw of an im2col.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

namespace sparsekern {

// Elements from one image, channel, row, column to the next: NCHW, channels last, or anything dense.
struct MapStrides {
  int64_t image, channel, row, column;
};

// y = activation(conv(x, W) + bias + residual), W as in LinearArgs with n = out channels and
// k = in channels * kh * kw. Padding is zeros; how much there is at the bottom and the right follows from
// the sizes of y.
struct ConvArgs {
  const float* x;
  MapStrides x_strides;
  const float* values;
  const int32_t* crow;    // may be null where `panels` is used
  const int32_t* col;     // among live columns
  const int32_t* panels;  // the index: panel_index.h
  const float* bias;      // may be null
  const float* residual;  // may be null; as y lies
  float* y;
  MapStrides y_strides;
  int64_t batch, channels, height, width;  // of x
  int64_t n, out_height, out_width;
  int64_t kh, kw, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  int64_t v;
  int64_t chunks;
  Activation activation;
  bool full_rows = false;          // what with_full_rows has done
  int64_t line = 0, row_step = 0;  // where rows are stretches of a line: outputs of it; columns of x from one
                                   // stretch to the next, which sees some of the same

  int64_t taps() const { return kh * kw; }
  int64_t block_rows() const { return (n + v - 1) / v; }
  int64_t work() const;  // multiply-adds, and what is moved
};

// How the output's positions are cut into vectors of so many lanes. Pure.
struct ConvTiling {
  int64_t lanes;
  int64_t segments;       // slots of an image
  int64_t rows, columns;  // of a slot
  int64_t strips;
  int64_t tiles_down;  // tiles of a strip

  // At most `most_rows` rows to a tile.
  ConvTiling(const ConvArgs& a, int64_t lanes, int64_t most_rows);

  int64_t tiles() const { return strips * tiles_down; }
  int64_t first_row(int64_t tile_down) const { return rows * tile_down / tiles_down; }
  int64_t most_rows() const { return (rows + tiles_down - 1) / tiles_down; }
};

// The planes of one tile of `rows` rows.
struct ConvPlanes {
  int64_t rows;      // vectors of a plane
  int64_t of_group;  // vectors of a channel's kw planes
  struct Phase {
    int64_t remainder, start, rows;  // of the rows of x modulo the stride; first row in the plane; rows
  };
  std::vector<Phase> phases;
  std::vector<int32_t> taps;  // where each tap's vectors start in the planes of its channel, in vectors

  ConvPlanes(const ConvArgs& a, int64_t tile_rows);
  ~ConvPlanes();  // one that the compiler made up might be made in an ISA's region, and be taken for all
};

// A stretch of a strip's lanes that belong to one slot.
struct ConvPiece {
  int64_t lane, count;  // lanes
  int64_t image;
  int64_t first_row;  // of the output: the slot's
  int64_t column;     // of the output: the first lane's
};

// Of a piece, for one tap across: the lanes that stand on columns of x.
struct ConvStretch {
  int64_t lane, count;
  int64_t image, first_row;  // as the piece's
  int64_t from;              // of the first lane: the column behind the start of its row, in floats
};

// Floats of one channel that go to its planes as they are: in each of `rows` rows of x, stride_h apart,
// `count` of them, stride_w columns apart. They become lanes of as many vectors, one behind the other.
struct ConvMove {
  int32_t to;  // in the channel's planes
  int32_t count;
  int64_t from;  // in x, behind the start of the channel
  int64_t rows;
};

// One tile: some rows of a strip. Made by plain code, so that no ISA's region makes anything that others
// share. One object serves all tiles of a call, so that they share its memory.
struct ConvTile {
  const ConvArgs& a;
  const ConvTiling& tiling;
  const int64_t channels;  // so many the places are of
  int64_t row0, rows;      // of the slots
  ConvPlanes planes;
  std::vector<ConvPiece> pieces;
  // What fills the planes of a channel of NCHW. Where moves leave lanes of a vector out, zeros go first:
  // padding must be zero, and what lay in idle lanes may be a subnormal, which takes a core long.
  std::vector<ConvMove> zeros;         // whole vectors, from nowhere
  std::vector<ConvMove> whole, parts;  // of whole vectors; of some lanes
  const float* in_place;  // of a 1 x 1 convolution whose vectors lie in x as they are wanted: there; or null
  std::vector<int64_t> lanes;   // for channels last: of every vector, where each lane is behind x, or -1
  std::vector<int32_t> places;  // of the first compact columns: where their vectors are, in floats

  ConvTile(const ConvArgs& args, const ConvTiling& how, int64_t of_channels);
  ~ConvTile();
  void move_to(int64_t tile);
  // Floats from one channel's planes to the next's.
  int64_t step() const { return in_place ? a.x_strides.channel : planes.of_group * tiling.lanes; }
  // Floats from a row of x to the one that the next vector of a plane wants.
  int64_t row_step() const { return a.stride_h * a.x_strides.row; }

  // Of a piece, how many of the tile's rows are outputs: the last segment of a map may be shorter.
  int64_t outputs_down(const ConvPiece& piece) const {
    const int64_t left = a.out_height - piece.first_row - row0;
    return left < rows ? left : rows;
  }
  // And how many of its lanes in such a row: the last stretch of a line may be shorter.
  int64_t outputs_across(const ConvPiece& piece, int64_t row) const {
    if (a.line == 0) return piece.count;
    const int64_t left = a.line - (piece.first_row + row0 + row) * a.out_width - piece.column;
    return left < piece.count ? left : piece.count;
  }

 private:
  std::vector<ConvStretch> stretches_;  // of one tap across
  void cut_strip(int64_t strip);
  void find_stretches(int64_t kx, int64_t row);
  void plan_moves();
  void add_rows(int64_t to, int64_t below, int64_t count);
};

// A 1 x 1 convolution sees no neighbours: its map may be cut into rows that fill vectors. So may a line, a
// map of one row, whose stretches become rows, unless its batch is longer: then the batch becomes the rows.
ConvArgs with_full_rows(ConvArgs a, int64_t lanes);

struct ConvKernel {
  const char* name;
  bool copies;
  int64_t (*tiles)(const ConvArgs&);
  size_t (*scratch_floats)(const ConvArgs&);
  void (*run)(const ConvArgs&, int64_t begin, int64_t end, float* scratch);
};

constexpr int kConvKernels = 2;
constexpr int64_t kTileRows = 14;  // of a tile, at most: so many sums of one output
constexpr int64_t kPointwiseRows =
    8;  // for 1 x 1: a column is not shared by taps, so fewer rows, more columns

// Channels of a panel: that many of their planes stay in L1.
int64_t conv_panel_groups(int64_t kh, int64_t kw);

}  // namespace sparsekern
