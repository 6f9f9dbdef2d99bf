// Products of a few rows of packed w with a few rows of x, in registers.
//
// One order for every sum, however many rows there are: lane l adds its columns of each group in
// turn, then the lanes are added in a tree.
#pragma once

#include "rows.h"

namespace dsv4::DSV4_ISA {

constexpr int TILE = 4;          // rows of w, and rows of x, of a register tile
constexpr int64_t AHEAD = 4096;  // bytes between what is read and what is asked for

// Sums over lanes: sums[o][t] → y[t][o], each by the tree of `sum`.
template <int W, int T>
DSV4_INLINE inline void add_lanes(const v16 (&sums)[W][T], float (&y)[T][W]) {
#if defined(__AVX512F__)
  const auto fold8 = [](v16 a, v16 b) DSV4_INLINE {  // lanes 0 … 7 + 8 … 15, of a and of b
    const __m512 x = (__m512)a, z = (__m512)b;
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, z, 0x44), _mm512_shuffle_f32x4(x, z, 0xEE));
  };
  const auto fold4 = [](__m512 a, __m512 b) DSV4_INLINE {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  };
  const auto fold2 = [](__m512 a, __m512 b) DSV4_INLINE {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
  };
  const auto fold1 = [](__m512 a, __m512 b) DSV4_INLINE {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
  };
  // Four at a time: four lanes are left of each, side by side.
  const auto four = [&](int i) DSV4_INLINE {
    const auto at = [&](int place) DSV4_INLINE {
      return place < W * T ? sums[place / T][place % T] : zero();
    };
    return fold4(fold8(at(i), at(i + 1)), fold8(at(i + 2), at(i + 3)));
  };
  if constexpr (W * T <= 4) {
    const __m512 q = four(0), half = fold2(q, q), all = fold1(half, half);
    float found[LANES];
    _mm512_storeu_ps(found, all);
    for (int i = 0; i < W * T; ++i) y[i % T][i / T] = found[4 * i];
  } else {  // sums 4q + i come out at 4i + q
    float found[LANES];
    _mm512_storeu_ps(found, fold1(fold2(four(0), four(4)), fold2(four(8), four(12))));
    for (int i = 0; i < W * T; ++i) y[i % T][i / T] = found[4 * (i % 4) + i / 4];
  }
#else
  for (int o = 0; o < W; ++o) {
    for (int t = 0; t < T; ++t) y[t][o] = sum(sums[o][t]);
  }
#endif
}

// Asks memory for rows that come next: whole tiles of `rows` ahead, AHEAD bytes or a little more.
class Ahead {
 public:
  Ahead(const Matrix& w, int64_t first, int rows) : some_(rows * w.row_bytes() / groups_of(w.columns)) {
    const int64_t tile = rows * w.row_bytes();
    next_ = w.row(first) + std::max<int64_t>(AHEAD / tile, 1) * tile;
  }
  DSV4_INLINE void ask(int64_t group) const {
    const uint8_t* wanted = next_ + group * some_;
    for (int64_t i = 0; i < some_; i += 64) __builtin_prefetch(wanted + i);
  }

 private:
  const uint8_t* next_;
  int64_t some_;
};

// Rows of w that `dot_rows` takes at a time, for T rows of x.
template <int T>
constexpr int SIDE = T <= TILE ? TILE : TILE / 2;

// Rows [first, first + count) of w times T rows of x, multiplied while they are unpacked.
// x [groups, T, GROUP]; y[t] is where row `first` goes.
template <class Row, int T>
void dot_rows(const Matrix& w, int64_t first, int count, const typename Row::Shared& shared,
              const typename Row::Operand::Type* x, float* const* y) {
  using Operand = typename Row::Operand;
  constexpr int W = SIDE<T>;
  const auto at = [&](int i) { return first + std::min(i, count - 1); };
  // named one by one, so that they stay in registers
  Row row0(w, at(0), shared), row1(w, at(1), shared);
  Row row2(w, at(2 % W), shared), row3(w, at(3 % W), shared);
  v16 sums[W][T] = {};
  const Ahead ahead(w, first, W);
  const int64_t groups = groups_of(w.columns);
  for (int64_t group = 0; group < groups; ++group, x += T * GROUP) {
    ahead.ask(group);
    const auto read = [&](int t, int v) DSV4_INLINE {
      return Operand::read(x + t * GROUP + v * Operand::COUNT);
    };
    const auto add = [&](Row& row, v16 (&sum)[T]) DSV4_INLINE {
      typename Operand::Vector out[Row::VECTORS];
      row.at(group, out);
      for (int v = 0; v < Row::VECTORS; ++v) {
        for (int t = 0; t < T; ++t) sum[t] = Operand::accumulate(sum[t], read(t, v), out[v]);
      }
    };
    const auto add_both = [&](Row& a, Row& b, v16 (&sum_a)[T], v16 (&sum_b)[T]) DSV4_INLINE {
      typename Operand::Vector out_a[Row::VECTORS], out_b[Row::VECTORS];
      a.at(group, out_a);
      b.at(group, out_b);
      for (int v = 0; v < Row::VECTORS; ++v) {
        for (int t = 0; t < T; ++t) {
          const auto operand = read(t, v);
          sum_a[t] = Operand::accumulate(sum_a[t], operand, out_a[v]);
          sum_b[t] = Operand::accumulate(sum_b[t], operand, out_b[v]);
        }
      }
    };
    if constexpr (W == TILE) {
      add(row0, sums[0]);
      add(row1, sums[1]);
      add(row2, sums[2]);
      add(row3, sums[3]);
    } else {  // together, else the compiler keeps x rather than the sums in registers
      add_both(row0, row1, sums[0], sums[1]);
    }
  }
  float found[T][W];
  add_lanes<W, T>(sums, found);
  for (int t = 0; t < T; ++t) std::memcpy(y[t], found[t], count * sizeof(float));
}

// Rows [first, first + count) of w, at most TILE, as operands: panel [TILE, groups · GROUP], the
// last of them repeated.
template <class Row>
void unpack_rows(const Matrix& w, int64_t first, int count, const typename Row::Shared& shared,
                 typename Row::Operand::Type* panel) {
  using Operand = typename Row::Operand;
  const auto at = [&](int i) { return first + std::min(i, count - 1); };
  Row row0(w, at(0), shared), row1(w, at(1), shared), row2(w, at(2), shared), row3(w, at(3), shared);
  const Ahead ahead(w, first, TILE);
  const int64_t groups = groups_of(w.columns), places = groups * GROUP;
  for (int64_t group = 0; group < groups; ++group, panel += GROUP) {
    ahead.ask(group);
    const auto write = [&](Row& row, int i) DSV4_INLINE {
      typename Operand::Vector out[Row::VECTORS];
      row.at(group, out);
      for (int v = 0; v < Row::VECTORS; ++v) {
        Operand::write(panel + i * places + v * Operand::COUNT, out[v]);
      }
    };
    write(row0, 0);
    write(row1, 1);
    write(row2, 2);
    write(row3, 3);
  }
}

// TILE rows of x times TILE unpacked rows of w, `stride` operands apart.
template <class Operand>
inline void tile(const typename Operand::Type* const x[TILE], const typename Operand::Type* w,
                 int64_t stride, int64_t places, float (&y)[TILE][TILE]) {
  v16 sums[TILE][TILE] = {};
  for (int64_t k = 0; k < places; k += Operand::COUNT) {
    typename Operand::Vector a[TILE];
    for (int t = 0; t < TILE; ++t) a[t] = Operand::read(x[t] + k);
    for (int o = 0; o < TILE; ++o) {
      const auto b = Operand::read(w + o * stride + k);
      for (int t = 0; t < TILE; ++t) sums[o][t] = Operand::accumulate(sums[o][t], a[t], b);
    }
  }
  add_lanes<TILE, TILE>(sums, y);
}

}  // namespace dsv4::DSV4_ISA
