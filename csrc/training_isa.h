// The training operators of one instruction set, and what they share.
#pragma once

#include "numeric.h"
#include "training.h"

namespace dsv4::DSV4_ISA {

void train_experts(const Routing&, float* up1, float* up3, float* y);
void train_experts_back(const Routing&, const float* up1, const float* up3, const float* slope,
                        const RoutingSlopes&);

void train_read(const Streams&, const float* x, float* z, float* norm, float* coefficients, float* u);
void train_read_back(const Streams&, const float* x, const float* z, const float* norm,
                     const float* coefficients, const float* of_u, const float* of_coefficients,
                     const float* of_x, const StreamSlopes&);
void train_write(const HyperShape&, int64_t tokens, const float* x, const float* y,
                 const float* coefficients, float* written);
void train_write_back(const HyperShape&, int64_t tokens, const float* x, const float* y,
                      const float* coefficients, const float* slope, float* to_x, float* to_y,
                      float* to_coefficients);

void train_attend(const SparseAttention&, float* o, float* levels, float* mass);
void train_attend_back(const SparseAttention&, const float* levels, const float* slope, float* to_q,
                       float* to_window, float* to_entries, float* to_sink);

void train_rows(const Rows&, const float* x, float* y);
void train_rows_back(const Rows&, const float* x, const float* slope, float* to_x, float* to_weight);
void train_surprise(int64_t rows, int64_t words, const int64_t* targets, float factor, float* logits,
                    float* losses);
void train_pool(int64_t blocks, int64_t depth, int64_t c, const float* values, const float* scores,
                float* y);
void train_pool_back(int64_t blocks, int64_t depth, int64_t c, const float* values,
                     const float* scores, const float* y, const float* slope, float* to_values,
                     float* to_scores);

void train_adam(const Adam&, int64_t count, const float* slope, float* weight, float* mean,
                float* square);

inline v16 sigmoid(v16 x) { return 1.0f / (1.0f + exponential(-x)); }

// Sixteen floats, or what is `left` of them and then zeros.
inline v16 read_some(const float* p, int64_t left) {
  return left >= LANES ? load(p) : load_part(p, left);
}
inline void write_some(float* p, v16 v, int64_t left) {
  if (left >= LANES) return store(p, v);
  float all[LANES];
  store(all, v);
  std::memcpy(p, all, left * sizeof(float));
}

// f(i, left) for each sixteen of n floats, whole ones with a constant: what they read is not asked for.
template <class F>
DSV4_INLINE inline void by_lanes(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) f(i, int64_t{LANES});
  if (i < n) f(i, n - i);
}

}  // namespace dsv4::DSV4_ISA
