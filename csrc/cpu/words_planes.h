// Where the inputs of a product with words lie: planes.
//
// Lanes are rows of y: of a convolution the output positions, image by image and row by row. Between two rows
// lie as many lanes as the padding takes that the end of one and the start of the next have in common,
// between two images as many rows. So what a tap sees is the same number of lanes away from every position,
// and one copy of the input, a plane for each word, serves all taps. With a stride there are as many planes
// as places (row and column modulo the strides) that taps want. Lanes between rows are computed too, and not
// stored.
//
// A tap's vector is not aligned: what is copied or broadcast from there may lie anywhere.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/words.h"

namespace sparsekern {

struct WordPlanes {
  struct Phase {
    int64_t down, across;  // rows and columns of the padded image modulo the strides
  };
  struct Tap {
    int64_t phase, shift;  // lanes
  };

  WordMap map;  // without one: every row of x is an image of one position
  const uint32_t* x;
  int64_t images, position;  // words from one position to the next
  int64_t rows, pitch;       // of lanes: an image's, a row's
  int64_t lanes;             // from the first row of y to the last
  int64_t reach;             // that a tap is away, at most
  std::vector<Phase> phases;
  std::vector<Tap> taps;

  explicit WordPlanes(const WordArgs& a);
  ~WordPlanes();  // one that the compiler made up might be made in an ISA's region, and be taken for all

  int64_t count() const { return int64_t(phases.size()) * map.words; }
  // Of a plane that holds what so many lanes see, with whole vectors: lanes. An odd number of lines, or the
  // planes would fall on few sets of a cache.
  int64_t length(int64_t of_lanes) const { return ((of_lanes + reach + 15) / 16 | 1) * 16; }
  // Where what columns of the weight see starts, in planes of that length.
  void places(const int32_t* col, int64_t columns, int64_t length, int32_t* to) const;
  // Of 16 lanes of a phase, where each lies; null is zeros.
  void sources(const Phase& phase, int64_t lane, const uint32_t* (&from)[kWordOutputs]) const;
  // Of so many lanes the row of y, or -1.
  void outputs(int64_t lane, int64_t count, int64_t* rows_of_y) const;
};

// How the lanes are cut into tiles, whose planes are made once and stay in L2. Tiles are whole vectors.
struct WordTiling {
  int64_t vectors, most;  // of all lanes, of a tile
  int64_t length;         // of a tile's planes
  WordTiling(const WordArgs& a, const WordPlanes& planes);
  int64_t tiles() const { return (vectors + most - 1) / most; }
  int64_t first_vector(int64_t tile) const { return vectors * tile / tiles(); }
  int64_t first_lane(int64_t tile) const { return first_vector(tile) * kWordOutputs; }
};

}  // namespace sparsekern
