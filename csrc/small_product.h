// A matrix product inside one task: operands are read where they lie, and nothing is laid out.
#pragma once

#include "tile.h"

namespace dsv4::DSV4_ISA {

// c [m, n] = or += a · b: row p of b is at row_of_b(p), row i of c at row_of_c(i); n a multiple of 32.
template <class A, class B, class C>
inline void small_product(int64_t m, int64_t n, int64_t depth, const A& a, const B& row_of_b,
                          const C& row_of_c, bool add) {
  for (int64_t j = 0; j < n; j += TILE_COLUMNS) {
    for (int64_t i = 0; i < m; i += TILE_ROWS) {
      with_rows(static_cast<int>(std::min<int64_t>(TILE_ROWS, m - i)), [&](auto rows) {
        v16 sums[rows()][TILE_VECTORS];
        sum_tile<Single>(depth, a.from(i), [&](int64_t p) DSV4_INLINE { return row_of_b(p) + j; },
                         sums);
        for (int r = 0; r < rows(); ++r) {
          float* to = row_of_c(i + r) + j;
          for (int v = 0; v < TILE_VECTORS; ++v) {
            float* at = to + v * LANES;
            store(at, add ? load(at) + sums[r][v] : sums[r][v]);
          }
        }
      });
    }
  }
}

struct Lines : InRows<float> {
  Lines from(int64_t i) const { return {{data + i * stride, stride}}; }
};
struct Upright : InColumns<float> {
  Upright from(int64_t i) const { return {{data + i, stride}}; }
};
struct Gathered : Pointed {
  Gathered from(int64_t i) const { return {{rows + i}}; }
};

}  // namespace dsv4::DSV4_ISA
