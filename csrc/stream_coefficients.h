// Coefficients of the residual streams, of sixteen tokens in the lanes of a vector, and their slopes.
//
// l = scale · z + base;  pre = σ(l) + ε,  post = 2σ(l),  comb = softmax(l) + ε made doubly stochastic:
// columns, then rows and columns in turn, are divided by their sums. The backward undoes the divisions
// one by one (dx = (dy − Σ dy y) / total, x = y · total), so that the totals alone are kept.
#pragma once

#include "training_isa.h"

namespace dsv4::DSV4_ISA {

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

}  // namespace dsv4::DSV4_ISA
