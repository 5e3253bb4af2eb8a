// Included inside each ISA's region. How tasks cover tiles of rows of x and chunks of block rows.

// Rows of x are cut into tiles that differ by at most one row, none larger than `most`.
inline int64_t tile_count(int64_t m, int64_t most) { return (m + most - 1) / most; }
inline int64_t tile_begin(int64_t m, int64_t tiles, int64_t tile) { return m * tile / tiles; }

// First block row of a chunk: chunks hold equal shares of (nonzero blocks + rows), so that empty rows cost
// too.
template <class Args>
inline int64_t chunk_begin(const Args& a, int64_t chunk) {
  const int64_t rows = a.block_rows();
  if (chunk <= 0) return 0;
  if (chunk >= a.chunks) return rows;
  const int64_t want = (a.crow[rows] + rows) * chunk / a.chunks;
  int64_t low = 0, high = rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (a.crow[middle] + middle < want)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Calls body(tile, first, last) for tasks [begin, end), where chunk c of a tile is [cut(c), cut(c + 1));
// neighbouring chunks of a tile are joined, so a tile is packed once by each thread that works on it.
template <class Args, class Cut, class Body>
inline void for_each_tile(const Args& a, int64_t begin, int64_t end, Cut cut, Body body) {
  while (begin < end) {
    const int64_t tile = begin / a.chunks;
    const int64_t stop = (tile + 1) * a.chunks < end ? (tile + 1) * a.chunks : end;
    const int64_t first = cut(begin - tile * a.chunks), last = cut(stop - tile * a.chunks);
    if (first < last) body(tile, first, last);
    begin = stop;
  }
}

// Asks for lines of a matrix that will be written, long before: with many rows it is in no cache near.
inline void prefetch_rows(float* matrix, int64_t stride, int64_t begin, int64_t end, int64_t columns) {
  for (int64_t row = begin; row < end; ++row)
    for (int64_t column = 0; column < columns; column += 16)
      prefetch_to_write(matrix + row * stride + column);
}
