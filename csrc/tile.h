// A tile of a matrix product in registers: c[i][j] = Σ_p a[i][p] · b[p][j], p in order, so that no sum
// depends on the tiles beside it. Numbers are floats, or pairs of bfloat16 along p.
#pragma once

#include <utility>

#include "numeric.h"

namespace dsv4::DSV4_ISA {

#if defined(__AVX512F__)
constexpr int TILE_ROWS = 12, TILE_VECTORS = 2;  // 24 sums, 2 vectors of b, one of a: of 32 registers
#elif defined(__AVX2__)
constexpr int TILE_ROWS = 6, TILE_VECTORS = 1;
#else
constexpr int TILE_ROWS = 3, TILE_VECTORS = 1;
#endif
constexpr int TILE_COLUMNS = TILE_VECTORS * LANES;

struct Single {
  using Type = float;
  static constexpr int DEPTH = 1;  // columns of a that one number holds
  static DSV4_INLINE v16 multiply(v16 sum, float a, v16 b) { return fma(splat(a), b, sum); }
  static DSV4_INLINE v16 read(const float* p) { return load(p); }
};

#if defined(__AVX512BF16__)
struct Pair {
  using Type = uint32_t;  // the even column below, the odd one above
  static constexpr int DEPTH = 2;
  static DSV4_INLINE v16 multiply(v16 sum, uint32_t a, u16 b) {
    const u16 both = u16{} + a;
    return (v16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)both, (__m512bh)b);
  }
  static DSV4_INLINE u16 read(const uint32_t* p) {
    u16 v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
};
#endif

// Where a number of a stands.
template <class T>
struct InRows {  // a row's numbers side by side
  const T* data;
  int64_t stride;
  DSV4_INLINE T at(int i, int64_t p) const { return data[i * stride + p]; }
};
template <class T>
struct InColumns {  // a column's numbers side by side
  const T* data;
  int64_t stride;
  DSV4_INLINE T at(int i, int64_t p) const { return data[p * stride + i]; }
};
struct Pointed {  // rows anywhere
  const float* const* rows;
  DSV4_INLINE float at(int i, int64_t p) const { return rows[i][p]; }
};

template <class Number, int M, int V, class A, class Row>
DSV4_INLINE inline void sum_tile(int64_t depth, const A& a, const Row& row_of_b, v16 (&sums)[M][V]) {
  for (int i = 0; i < M; ++i) {
    for (int v = 0; v < V; ++v) sums[i][v] = zero();
  }
  for (int64_t p = 0; p < depth; ++p) {
    const typename Number::Type* b = row_of_b(p);
    decltype(Number::read(b)) read[V];
    for (int v = 0; v < V; ++v) read[v] = Number::read(b + v * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const auto left = a.at(i, p);
      for (int v = 0; v < V; ++v) sums[i][v] = Number::multiply(sums[i][v], left, read[v]);
    }
  }
}

// f(std::integral_constant<int, rows>) for 1 ≤ rows ≤ TILE_ROWS.
template <class F, int... Rows>
inline void with_rows(int rows, F&& f, std::integer_sequence<int, Rows...>) {
  ((rows == Rows + 1 ? f(std::integral_constant<int, Rows + 1>{}) : void()), ...);
}
template <class F>
inline void with_rows(int rows, F&& f) {
  with_rows(rows, f, std::make_integer_sequence<int, TILE_ROWS>{});
}

}  // namespace dsv4::DSV4_ISA
