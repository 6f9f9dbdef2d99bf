#include "hyper.h"

namespace dsv4::DSV4_ISA {
namespace {

inline float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// Softmax over the last axis plus eps, then columns once, and rows and columns in turn.
void sinkhorn4(float* comb, int64_t iterations, float eps) {
  v16 v = load(comb);
  const auto swap = [](v16 x, i16 places) {
#if defined(__clang__)
    return __builtin_shufflevector(x, places);
#else
    return __builtin_shuffle(x, places);
#endif
  };
  const i16 in_row1{1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14};
  const i16 in_row2{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13};
  const i16 in_column1{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11};
  const i16 in_column2{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7};
  const auto rows = [&](v16 x) {
    x += swap(x, in_row1);
    return x + swap(x, in_row2);
  };
  const auto columns = [&](v16 x) {
    x += swap(x, in_column1);
    return x + swap(x, in_column2);
  };
  v16 m = maximum(v, swap(v, in_row1));
  m = maximum(m, swap(m, in_row2));
  v = exponential(v - m);
  v = v / rows(v) + eps;
  v = v / (columns(v) + eps);
  for (int64_t i = 1; i < iterations; ++i) {
    v = v / (rows(v) + eps);
    v = v / (columns(v) + eps);
  }
  store(comb, v);
}

void sinkhorn(float* comb, int64_t hc, int64_t iterations, float eps) {
  const auto scale = [&](int64_t from, int64_t step, float floor) {  // a row has step 1, a column hc
    float total = floor;
    for (int64_t i = 0; i < hc; ++i) total += comb[from + i * step];
    for (int64_t i = 0; i < hc; ++i) comb[from + i * step] /= total;
  };
  for (int64_t row = 0; row < hc; ++row) {
    float* first = comb + row * hc;
    const float m = *std::max_element(first, first + hc);
    for (int64_t i = 0; i < hc; ++i) first[i] = std::exp(first[i] - m);
    scale(row * hc, 1, 0.0f);
    for (int64_t i = 0; i < hc; ++i) first[i] += eps;
  }
  for (int64_t column = 0; column < hc; ++column) scale(column, hc, eps);
  for (int64_t i = 1; i < iterations; ++i) {
    for (int64_t row = 0; row < hc; ++row) scale(row * hc, 1, eps);
    for (int64_t column = 0; column < hc; ++column) scale(column, hc, eps);
  }
}

// z of one token → pre | post | comb in place.
void finish(const HyperShape& s, const Hyper& w, bool head, float* z) {
  const int64_t hc = s.streams;
  for (int64_t i = 0; i < hc; ++i) z[i] = sigmoid(z[i] * w.scale[0] + w.base[i]) + s.eps;
  if (head) return;
  for (int64_t i = hc; i < 2 * hc; ++i) z[i] = 2 * sigmoid(z[i] * w.scale[1] + w.base[i]);
  float* comb = z + 2 * hc;
  for (int64_t i = 0; i < hc * hc; ++i) comb[i] = comb[i] * w.scale[2] + w.base[2 * hc + i];
  if (hc == 4) {
    sinkhorn4(comb, s.iterations, s.eps);
  } else {
    sinkhorn(comb, hc, s.iterations, s.eps);
  }
}

float mean_square(const float* x, int64_t n) {
  v16 total[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES) {
    for (int64_t j = 0; j < 4; ++j) {
      const v16 v = load(x + i + j * LANES);
      total[j] = fma(v, v, total[j]);
    }
  }
  for (; i < n; i += LANES) {
    const v16 v = load_part(x + i, std::min<int64_t>(LANES, n - i));
    total[0] = fma(v, v, total[0]);
  }
  return sum((total[0] + total[1]) + (total[2] + total[3])) / n;
}

}  // namespace

void collapse(Pool& pool, const HyperShape& s, const Hyper& w, bool head, const float* x,
              int64_t tokens, float* coefficients, float* u, Arena& arena) {
  Scope scope(arena);
  const int64_t hc = s.streams;
  const int64_t out = w.fn.rows, width = hc * s.d;
  const Arranged arranged =
      arrange(pool, x, tokens, width, width, Format::F32, Precision::FULL, arena);
  multiply(pool, {{&w.fn, 0, out, &arranged, tokens, nullptr, nullptr, coefficients, out}});
  pool.run(tokens, 4, [&](int64_t t, int) {
    const float* rows = x + t * width;
    float* z = coefficients + t * out;
    const float norm = 1.0f / std::sqrt(mean_square(rows, width) + s.norm_eps);
    for (int64_t i = 0; i < out; ++i) z[i] *= norm;
    finish(s, w, head, z);
    float* to = u + t * s.d;
    for (int64_t i = 0; i < s.d; i += LANES) {
      v16 total = z[0] * load(rows + i);
      for (int64_t j = 1; j < hc; ++j) total = fma(splat(z[j]), load(rows + j * s.d + i), total);
      store(to + i, total);
    }
  });
}

void expand(Pool& pool, const HyperShape& s, const float* coefficients, const float* y,
            int64_t tokens, float* x) {
  const int64_t hc = s.streams;
  pool.run(tokens, 4, [&](int64_t t, int) {
    const float* post = coefficients + t * (2 + hc) * hc + hc;
    const float* comb = post + hc;
    const float* written = y + t * s.d;
    float* rows = x + t * hc * s.d;
    for (int64_t i = 0; i < s.d; i += LANES) {
      v16 old[MAX_STREAMS];
      for (int64_t j = 0; j < hc; ++j) old[j] = load(rows + j * s.d + i);
      const v16 added = load(written + i);
      for (int64_t k = 0; k < hc; ++k) {
        v16 total = comb[k] * old[0];
        for (int64_t j = 1; j < hc; ++j) total = fma(splat(comb[j * hc + k]), old[j], total);
        store(rows + k * s.d + i, fma(splat(post[k]), added, total));
      }
    }
  });
}

}  // namespace dsv4::DSV4_ISA
