#include "training_isa.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int64_t CHUNK = 512;  // tokens between one product and the next
constexpr int64_t GRAIN = 2;    // groups of sixteen tokens that a thread takes at a time

int64_t groups(int64_t tokens) { return (tokens + LANES - 1) / LANES; }

// The coefficients of sixteen tokens, one in each lane.
class Coefficients {
 public:
  explicit Coefficients(const Streams& s) : s_(s), hc_(s.shape.streams) {}

  // z [16, out] → pre | post | comb [16, out], rows of `count` tokens. `totals`, where it is kept, has
  // what each step divided by.
  void make(const float* z, int64_t count, float* coefficients, v16* totals) {
    load_lanes(z, count, z_);
    for (int64_t i = 0; i < hc_; ++i) {
      value_[i] = sigmoid(logit(i)) + s_.shape.eps;
      if (!s_.head) value_[hc_ + i] = 2.0f * sigmoid(logit(hc_ + i));
    }
    if (!s_.head) soften(totals);
    store_lanes(value_, count, coefficients);
  }

  // Slopes of the coefficients [16, out] → of the logits, then of z; z and the coefficients are those
  // that were made.
  void back(const float* z, const float* coefficients, const float* slope, int64_t count,
            const v16* totals, float* of_logits, float* of_z) {
    load_lanes(z, count, z_);
    load_lanes(coefficients, count, value_);
    load_lanes(slope, count, slope_);
    for (int64_t i = 0; i < hc_; ++i) {
      const v16 p = value_[i] - s_.shape.eps;
      slope_[i] *= p * (1.0f - p);
      if (!s_.head) {
        const v16 q = value_[hc_ + i] * 0.5f;
        slope_[hc_ + i] *= 2.0f * q * (1.0f - q);
      }
    }
    if (!s_.head) soften_back(totals);
    store_lanes(slope_, count, of_logits);
    for (int64_t i = 0; i < s_.outputs(); ++i) slope_[i] *= s_.scale[part(i)];
    store_lanes(slope_, count, of_z);
  }

  int64_t steps() const { return s_.head ? 0 : 2 * s_.shape.iterations * hc_; }
  int64_t part(int64_t i) const { return i < hc_ ? 0 : i < 2 * hc_ ? 1 : 2; }

 private:
  v16 logit(int64_t i) const { return fma(z_[i], splat(s_.scale[part(i)]), splat(s_.base[i])); }

  // Divides line i of `lines` in one direction by what it sums to, and eps.
  void scale(int64_t from, int64_t step, float eps, v16* total) {
    v16* comb = value_ + 2 * hc_;
    v16 sum = splat(eps);
    for (int64_t k = 0; k < hc_; ++k) sum += comb[from + k * step];
    const v16 inverse = 1.0f / sum;
    for (int64_t k = 0; k < hc_; ++k) comb[from + k * step] *= inverse;
    if (total != nullptr) *total = sum;
  }
  // The slope before that step, and the number before it, from those after.
  void scale_back(int64_t from, int64_t step, v16 total) {
    v16 *comb = value_ + 2 * hc_, *slope = slope_ + 2 * hc_;
    v16 along = zero();
    for (int64_t k = 0; k < hc_; ++k) {
      along = fma(slope[from + k * step], comb[from + k * step], along);
    }
    const v16 inverse = 1.0f / total;
    for (int64_t k = 0; k < hc_; ++k) {
      slope[from + k * step] = (slope[from + k * step] - along) * inverse;
      comb[from + k * step] *= total;
    }
  }

  void soften(v16* totals) {
    v16* comb = value_ + 2 * hc_;
    const auto next = [&] { return totals == nullptr ? nullptr : totals++; };
    const float eps = s_.shape.eps;
    for (int64_t row = 0; row < hc_; ++row) {
      v16* line = comb + row * hc_;
      v16 top = logit(2 * hc_ + row * hc_);
      for (int64_t k = 0; k < hc_; ++k) {
        line[k] = logit(2 * hc_ + row * hc_ + k);
        top = maximum(top, line[k]);
      }
      for (int64_t k = 0; k < hc_; ++k) line[k] = exponential(line[k] - top);
      scale(row * hc_, 1, 0.0f, next());
      for (int64_t k = 0; k < hc_; ++k) line[k] += eps;
    }
    for (int64_t column = 0; column < hc_; ++column) scale(column, hc_, eps, next());
    for (int64_t i = 1; i < s_.shape.iterations; ++i) {
      for (int64_t row = 0; row < hc_; ++row) scale(row * hc_, 1, eps, next());
      for (int64_t column = 0; column < hc_; ++column) scale(column, hc_, eps, next());
    }
  }

  void soften_back(const v16* totals) {
    const v16* last = totals + steps();
    for (int64_t i = s_.shape.iterations; --i > 0;) {
      for (int64_t column = hc_; --column >= 0;) scale_back(column, hc_, *--last);
      for (int64_t row = hc_; --row >= 0;) scale_back(row * hc_, 1, *--last);
    }
    for (int64_t column = hc_; --column >= 0;) scale_back(column, hc_, *--last);
    v16 *comb = value_ + 2 * hc_, *slope = slope_ + 2 * hc_;
    for (int64_t row = 0; row < hc_; ++row) {  // p = softmax(logits): dl = p · (dp − Σ p dp)
      v16 along = zero();
      for (int64_t i = row * hc_; i < (row + 1) * hc_; ++i) {
        comb[i] -= s_.shape.eps;
        along = fma(comb[i], slope[i], along);
      }
      for (int64_t i = row * hc_; i < (row + 1) * hc_; ++i) slope[i] = comb[i] * (slope[i] - along);
    }
  }

  void load_lanes(const float* from, int64_t count, v16* to) const {
    const int64_t out = s_.outputs();
    for (int64_t i = 0; i < out; ++i) {
      v16 lanes = zero();
      for (int64_t t = 0; t < count; ++t) lanes[t] = from[t * out + i];
      to[i] = lanes;
    }
  }
  void store_lanes(const v16* from, int64_t count, float* to) const {
    const int64_t out = s_.outputs();
    for (int64_t i = 0; i < out; ++i) {
      for (int64_t t = 0; t < count; ++t) to[t * out + i] = from[i][t];
    }
  }

  static constexpr int64_t MOST = (2 + MAX_STREAMS) * MAX_STREAMS;
  const Streams& s_;
  int64_t hc_;
  v16 z_[MOST], value_[MOST], slope_[MOST];
};

float mean_square(const float* x, int64_t n) {
  v16 total[4] = {};
  for (int64_t i = 0; i < n; i += LANES) {
    const v16 v = read_some(x + i, n - i);
    total[i / LANES % 4] = fma(v, v, total[i / LANES % 4]);
  }
  return sum((total[0] + total[1]) + (total[2] + total[3])) / n;
}

// Slopes of what a group of tokens read: dx = of_x + pre · du, and of pre, into `slope` [16, out].
void collapse_back(const Streams& s, const float* x, const float* coefficients, const float* of_u,
                   const float* of_x, float* to_x, float* slope) {
  const int64_t hc = s.shape.streams, d = s.shape.d;
  v16 along[MAX_STREAMS] = {};
  for (int64_t i = 0; i < d; i += LANES) {
    const v16 du = read_some(of_u + i, d - i);
    for (int64_t j = 0; j < hc; ++j) {
      const int64_t at = j * d + i;
      along[j] = fma(read_some(x + at, d - i), du, along[j]);
      const v16 before = of_x == nullptr ? zero() : read_some(of_x + at, d - i);
      write_some(to_x + at, fma(splat(coefficients[j]), du, before), d - i);
    }
  }
  for (int64_t j = 0; j < hc; ++j) slope[j] = sum(along[j]);
}

}  // namespace

void train_read(const Streams& s, const float* x, float* z, float* norm, float* coefficients,
                float* u) {
  Pool& pool = Pool::instance();
  const int64_t hc = s.shape.streams, d = s.shape.d, width = s.width(), out = s.outputs();
  for (int64_t first = 0; first < s.tokens; first += CHUNK) {
    const int64_t count = std::min(CHUNK, s.tokens - first);
    multiply(pool, caller_arena(),
             {{{x + first * width, width}, {s.fn, width, true}, z + first * out, out, count, out,
               width}},
             false);
    pool.run(groups(count), GRAIN, [&](int64_t group, int) {
      const int64_t low = first + group * LANES, high = std::min(low + LANES, first + count);
      for (int64_t t = low; t < high; ++t) {
        norm[t] = 1.0f / std::sqrt(mean_square(x + t * width, width) + s.shape.norm_eps);
        for (int64_t i = t * out; i < (t + 1) * out; ++i) z[i] *= norm[t];
      }
      Coefficients(s).make(z + low * out, high - low, coefficients + low * out, nullptr);
      for (int64_t t = low; t < high; ++t) {
        const float *pre = coefficients + t * out, *rows = x + t * width;
        for (int64_t i = 0; i < d; i += LANES) {
          v16 total = zero();
          for (int64_t j = 0; j < hc; ++j) {
            total = fma(splat(pre[j]), read_some(rows + j * d + i, d - i), total);
          }
          write_some(u + t * d + i, total, d - i);
        }
      }
    });
  }
}

void train_read_back(const Streams& s, const float* x, const float* z, const float* norm,
                     const float* coefficients, const float* of_u, const float* of_coefficients,
                     const float* of_x, const StreamSlopes& to) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  Scope scope(arena);
  const int64_t width = s.width(), out = s.outputs(), hc = s.shape.streams, d = s.shape.d;
  float* of_logits = arena.take<float>(s.tokens * out);
  float* of_z = arena.take<float>(s.tokens * out);
  for (int64_t first = 0; first < s.tokens; first += CHUNK) {
    const int64_t count = std::min(CHUNK, s.tokens - first);
    pool.run(groups(count), GRAIN, [&](int64_t group, int) {
      const int64_t low = first + group * LANES, some = std::min<int64_t>(LANES, first + count - low);
      Arena& mine = worker_arena();
      Scope scope(mine);
      float* slope = mine.take<float>(LANES * out);
      if (of_coefficients == nullptr) {
        std::memset(slope, 0, LANES * out * sizeof(float));
      } else {
        std::memcpy(slope, of_coefficients + low * out, some * out * sizeof(float));
      }
      for (int64_t t = low; t < low + some; ++t) {
        collapse_back(s, x + t * width, coefficients + t * out, of_u + t * d,
                      of_x == nullptr ? nullptr : of_x + t * width, to.x + t * width,
                      slope + (t - low) * out);
      }
      Coefficients each(s);
      v16* totals = mine.take<v16>(each.steps() + hc);
      float* again = mine.take<float>(LANES * out);
      each.make(z + low * out, some, again, totals);
      each.back(z + low * out, again, slope, some, totals, of_logits + low * out, of_z + low * out);
      for (int64_t t = low; t < low + some; ++t) {  // z = a · norm: of a, and of x through the norm
        float along = 0;
        for (int64_t i = t * out; i < (t + 1) * out; ++i) {
          along += of_z[i] * z[i];
          of_z[i] *= norm[t];
        }
        const v16 factor = splat(-along * norm[t] * norm[t] / width);
        for (int64_t i = t * width; i < (t + 1) * width; i += LANES) {
          const int64_t left = (t + 1) * width - i;
          write_some(to.x + i, fma(factor, read_some(x + i, left), read_some(to.x + i, left)), left);
        }
      }
    });
    multiply(pool, arena,
             {{{of_z + first * out, out}, {s.fn, width}, to.x + first * width, width, count, width,
               out, true}},
             false);
  }
  multiply(pool, arena, {{{of_z, out, true}, {x, width}, to.fn, width, out, width, s.tokens}}, false);
  std::memset(to.base, 0, out * sizeof(float));
  std::memset(to.scale, 0, (s.head ? 1 : 3) * sizeof(float));
  const Coefficients each(s);
  for (int64_t t = 0; t < s.tokens; ++t) {
    for (int64_t i = 0; i < out; ++i) {
      to.base[i] += of_logits[t * out + i];
      to.scale[each.part(i)] += of_logits[t * out + i] * z[t * out + i];
    }
  }
}

void train_write(const HyperShape& s, int64_t tokens, const float* x, const float* y,
                 const float* coefficients, float* written) {
  const int64_t hc = s.streams, d = s.d, out = (2 + hc) * hc;
  Pool::instance().run(tokens, LANES, [&](int64_t t, int) {
    const float *post = coefficients + t * out + hc, *comb = post + hc;
    const float* rows = x + t * hc * d;
    float* to = written + t * hc * d;
    for (int64_t i = 0; i < d; i += LANES) {
      v16 old[MAX_STREAMS];
      for (int64_t j = 0; j < hc; ++j) old[j] = read_some(rows + j * d + i, d - i);
      const v16 added = read_some(y + t * d + i, d - i);
      for (int64_t k = 0; k < hc; ++k) {
        v16 total = comb[k] * old[0];
        for (int64_t j = 1; j < hc; ++j) total = fma(splat(comb[j * hc + k]), old[j], total);
        write_some(to + k * d + i, fma(splat(post[k]), added, total), d - i);
      }
    }
  });
}

void train_write_back(const HyperShape& s, int64_t tokens, const float* x, const float* y,
                      const float* coefficients, const float* slope, float* to_x, float* to_y,
                      float* to_coefficients) {
  const int64_t hc = s.streams, d = s.d, out = (2 + hc) * hc;
  Pool::instance().run(tokens, LANES, [&](int64_t t, int) {
    const float *post = coefficients + t * out + hc, *comb = post + hc;
    const float *rows = x + t * hc * d, *g = slope + t * hc * d;
    float *to = to_x + t * hc * d, *of = to_coefficients + t * out;
    v16 of_post[MAX_STREAMS] = {}, of_comb[MAX_STREAMS * MAX_STREAMS] = {};
    for (int64_t i = 0; i < d; i += LANES) {
      v16 dx[MAX_STREAMS];
      for (int64_t k = 0; k < hc; ++k) dx[k] = read_some(g + k * d + i, d - i);
      const v16 added = read_some(y + t * d + i, d - i);
      v16 dy = zero();
      for (int64_t k = 0; k < hc; ++k) {
        dy = fma(splat(post[k]), dx[k], dy);
        of_post[k] = fma(added, dx[k], of_post[k]);
      }
      write_some(to_y + t * d + i, dy, d - i);
      for (int64_t j = 0; j < hc; ++j) {
        const v16 old = read_some(rows + j * d + i, d - i);
        v16 total = zero();
        for (int64_t k = 0; k < hc; ++k) {
          total = fma(splat(comb[j * hc + k]), dx[k], total);
          of_comb[j * hc + k] = fma(old, dx[k], of_comb[j * hc + k]);
        }
        write_some(to + j * d + i, total, d - i);
      }
    }
    for (int64_t j = 0; j < hc; ++j) of[j] = 0;
    for (int64_t k = 0; k < hc; ++k) of[hc + k] = sum(of_post[k]);
    for (int64_t i = 0; i < hc * hc; ++i) of[2 * hc + i] = sum(of_comb[i]);
  });
}

}  // namespace dsv4::DSV4_ISA
