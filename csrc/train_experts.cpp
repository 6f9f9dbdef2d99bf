#include "training_isa.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int64_t ROWS = 16;  // pairs, or tokens, that a thread takes at a time

// Which pairs each expert has.
class Sorted {
 public:
  Sorted(const Routing& r, Arena& arena) : first(r.experts + 1) {
    token = arena.take<int64_t>(r.pairs());
    pair = arena.take<int64_t>(r.pairs());
    place = arena.take<int64_t>(r.pairs());
    for (int64_t p = 0; p < r.pairs(); ++p) ++first[r.indices[p] + 1];
    for (int64_t e = 0; e < r.experts; ++e) first[e + 1] += first[e];
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (int64_t p = 0; p < r.pairs(); ++p) {
      const int64_t at = next[r.indices[p]]++;
      token[at] = p / r.chosen;
      pair[at] = p;
      place[p] = at;
    }
  }
  std::vector<int64_t> first;  // of an expert's rows
  int64_t *token, *pair;       // of a sorted row
  int64_t* place;              // of a pair's row
};

// One product an expert over its rows.
template <class F>
void of_each(const Routing& r, const Sorted& sorted, std::vector<MatrixProduct>& products, F&& make) {
  for (int64_t e = 0; e < r.experts; ++e) {
    products.push_back(make(e, sorted.first[e], sorted.first[e + 1] - sorted.first[e]));
  }
}

inline v16 clamped(v16 x, float limit) {
  return x > limit ? splat(limit) : (x < -limit ? splat(-limit) : x);
}
inline v16 capped(v16 x, float limit) { return x > limit ? splat(limit) : x; }

// p · silu(min(up1, L)) ⊙ clamp(up3, −L, L) of each row.
void gate(Pool& pool, const Routing& r, const Sorted& sorted, const float* up1, const float* up3,
          float* gated) {
  pool.run(r.pairs(), ROWS, [&](int64_t row, int) {
    const v16 p = splat(r.weights[sorted.pair[row]]);
    for (int64_t i = row * r.inner; i < (row + 1) * r.inner; i += LANES) {
      const int64_t left = (row + 1) * r.inner - i;
      const v16 a = capped(read_some(up1 + i, left), r.limit);
      const v16 b = clamped(read_some(up3 + i, left), r.limit);
      write_some(gated + i, a * sigmoid(a) * b * p, left);
    }
  });
}

// y_t = Σ_j rows[place of pair (t, j)], in the order of the choice.
void gather(Pool& pool, const Routing& r, const Sorted& sorted, const float* rows, float* y) {
  pool.run(r.tokens, ROWS, [&](int64_t t, int) {
    const int64_t* place = sorted.place + t * r.chosen;
    for (int64_t i = 0; i < r.d; i += LANES) {
      v16 total = read_some(rows + place[0] * r.d + i, r.d - i);
      for (int64_t j = 1; j < r.chosen; ++j) total += read_some(rows + place[j] * r.d + i, r.d - i);
      write_some(y + t * r.d + i, total, r.d - i);
    }
  });
}

// From the slope of the gated rows: of the routing weights, and of up1 and up3 in their place.
void gate_back(Pool& pool, const Routing& r, const Sorted& sorted, const float* up1,
               const float* up3, const float* slope, float* slope1, float* slope3,
               float* of_weights) {
  pool.run(r.pairs(), ROWS, [&](int64_t row, int) {
    const v16 p = splat(r.weights[sorted.pair[row]]);
    v16 total = zero();
    for (int64_t i = row * r.inner; i < (row + 1) * r.inner; i += LANES) {
      const int64_t left = (row + 1) * r.inner - i;
      const v16 u1 = read_some(up1 + i, left), u3 = read_some(up3 + i, left);
      const v16 g = read_some(slope + i, left);
      const v16 a = capped(u1, r.limit), b = clamped(u3, r.limit), s = sigmoid(a);
      const v16 silu = a * s;
      total = fma(g, silu * b, total);
      const v16 to_a = g * p * b * (s + silu * (1.0f - s)), to_b = g * p * silu;
      write_some(slope1 + i, u1 <= r.limit ? to_a : zero(), left);
      write_some(slope3 + i, (u3 <= r.limit) & (u3 >= -r.limit) ? to_b : zero(), left);
    }
    of_weights[sorted.pair[row]] = sum(total);
  });
}

}  // namespace

void train_experts(const Routing& r, float* up1, float* up3, float* y) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  Scope scope(arena);
  const Sorted sorted(r, arena);
  const int64_t d = r.d, inner = r.inner, size = d * inner;
  std::vector<MatrixProduct> products;
  of_each(r, sorted, products, [&](int64_t e, int64_t first, int64_t rows) -> MatrixProduct {
    return {{r.x, d, false, sorted.token + first}, {r.w1 + e * size, d, true}, up1 + first * inner,
            inner, rows, inner, d};
  });
  of_each(r, sorted, products, [&](int64_t e, int64_t first, int64_t rows) -> MatrixProduct {
    return {{r.x, d, false, sorted.token + first}, {r.w3 + e * size, d, true}, up3 + first * inner,
            inner, rows, inner, d};
  });
  multiply(pool, arena, products, r.low);
  float* gated = arena.take<float>(r.pairs() * inner);
  gate(pool, r, sorted, up1, up3, gated);
  float* out = arena.take<float>(r.pairs() * d);
  products.clear();
  of_each(r, sorted, products, [&](int64_t e, int64_t first, int64_t rows) -> MatrixProduct {
    return {{gated + first * inner, inner}, {r.w2 + e * size, inner, true}, out + first * d,
            d, rows, d, inner};
  });
  multiply(pool, arena, products, r.low);
  gather(pool, r, sorted, out, y);
}

void train_experts_back(const Routing& r, const float* up1, const float* up3, const float* slope,
                        const RoutingSlopes& to) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  Scope scope(arena);
  const Sorted sorted(r, arena);
  const int64_t d = r.d, inner = r.inner, size = d * inner;
  float* gated = arena.take<float>(r.pairs() * inner);
  gate(pool, r, sorted, up1, up3, gated);
  float* through = arena.take<float>(r.pairs() * inner);
  std::vector<MatrixProduct> products;
  of_each(r, sorted, products, [&](int64_t e, int64_t first, int64_t rows) -> MatrixProduct {
    return {{slope, d, false, sorted.token + first}, {r.w2 + e * size, inner},
            through + first * inner, inner, rows, inner, d};
  });
  of_each(r, sorted, products, [&](int64_t e, int64_t first, int64_t rows) -> MatrixProduct {
    return {{slope, d, true, sorted.token + first}, {gated + first * inner, inner},
            to.w2 + e * size, inner, d, inner, rows};
  });
  multiply(pool, arena, products, r.low);
  float* slope1 = arena.take<float>(r.pairs() * inner);
  float* slope3 = through;  // read before it is written, number by number
  gate_back(pool, r, sorted, up1, up3, through, slope1, slope3, to.weights);
  float* out = arena.take<float>(r.pairs() * d);
  products.clear();
  of_each(r, sorted, products, [&](int64_t e, int64_t first, int64_t rows) -> MatrixProduct {
    return {{slope1 + first * inner, inner}, {r.w1 + e * size, d}, out + first * d, d, rows, d,
            inner};
  });
  for (const auto& [from, into] : {std::pair{slope1, to.w1}, std::pair{slope3, to.w3}}) {
    of_each(r, sorted, products, [&](int64_t e, int64_t first, int64_t rows) -> MatrixProduct {
      return {{from + first * inner, inner, true}, {r.x, d, false, sorted.token + first},
              into + e * size, d, inner, d, rows};
    });
  }
  multiply(pool, arena, products, r.low);
  products.clear();
  of_each(r, sorted, products, [&](int64_t e, int64_t first, int64_t rows) -> MatrixProduct {
    return {{slope3 + first * inner, inner}, {r.w3 + e * size, d}, out + first * d, d, rows, d,
            inner, true};
  });
  multiply(pool, arena, products, r.low);
  gather(pool, r, sorted, out, to.x);
}

}  // namespace dsv4::DSV4_ISA
