// The operators of training, forward and backward: float32, contiguous rows. A sum has one order,
// whatever the number of threads. The plain twins are in ops/.
#pragma once

#include "layer.h"
#include "product.h"

namespace dsv4 {

// Routed experts (ops/experts.py) of `tokens` rows. A pair is a token and one of its experts; pairs
// lie sorted by expert, those of an expert by token.
struct Routing {
  int64_t tokens = 0, chosen = 0, experts = 0, d = 0, inner = 0;
  float limit = 0;
  bool low = false;                  // operands of products are rounded to bfloat16
  const int64_t* indices = nullptr;  // [tokens, chosen]
  const float *x = nullptr, *weights = nullptr;                // [tokens, d], [tokens, chosen]
  const float *w1 = nullptr, *w2 = nullptr, *w3 = nullptr;     // [E, i, d], [E, d, i], [E, i, d]
  int64_t pairs() const { return tokens * chosen; }
};

struct RoutingSlopes {
  float *x = nullptr, *weights = nullptr, *w1 = nullptr, *w2 = nullptr, *w3 = nullptr;
};

// mHC (ops/hyper.py): x [tokens, hc, d]; the coefficients of a token are pre | post | comb [hc, hc], the
// head's pre alone. What the backward needs beside x are z [tokens, out] and the norm [tokens].
struct Streams {
  HyperShape shape;
  int64_t tokens = 0;
  bool head = false;
  const float *fn = nullptr, *scale = nullptr, *base = nullptr;
  int64_t width() const { return shape.streams * shape.d; }
  int64_t outputs() const { return head ? shape.streams : (2 + shape.streams) * shape.streams; }
};

struct StreamSlopes {
  float *x = nullptr, *fn = nullptr, *scale = nullptr, *base = nullptr;
};

// Attention of n queries to a window and to compressed entries (ops/attention.py): q [b, n, heads, c],
// window [b, keys, c], stored [b, entries, c]. Query t sees the window rows of its range, and the
// entries of its range, or, with `chosen` > 0, those of them that it picked.
struct SparseAttention {
  int64_t batch = 0, n = 0, heads = 0, c = 0, keys = 0, entries = 0, chosen = 0;
  int64_t scaled = 0;  // scores are over √scaled: channels that are no padding
  const float *q = nullptr, *window = nullptr, *stored = nullptr, *sink = nullptr;
  const int32_t* seen = nullptr;     // [b, n, 2]: window rows [low, high)
  const int32_t* visible = nullptr;  // [b, n, 2]: entries [low, high)
  const int32_t* picked = nullptr;   // [b, n, chosen], then −1 where it picked fewer
};

// Rows [rows, c]: RMSNorm where it `normalises`, then the last `rotary` channels turned. Row i has the
// angles of position (i / together) mod positions: cosine and sine side by side [positions, rotary].
struct Rows {
  int64_t rows = 0, c = 0, rotary = 0, positions = 1, together = 1;
  bool normalises = false, back = false;
  float eps = 0;
  const float *weight = nullptr, *angles = nullptr;  // no weight: 1
};

// One step of AdamW (ops/adam.py) for numbers that lie side by side.
struct Adam {
  float keep = 1, mean = 0, square = 0;  // of the weight, of the two moments
  float rate = 0, root = 1, eps = 0;     // the rate over 1 − β₁ᵗ; 1 / √(1 − β₂ᵗ)
};

struct TrainingKernels {
  void (*multiply)(const MatrixProduct&, bool low);
  // up1 and up3 [pairs, inner] are kept for the backward
  void (*experts)(const Routing&, float* up1, float* up3, float* y);
  void (*experts_back)(const Routing&, const float* up1, const float* up3, const float* slope,
                       const RoutingSlopes&);
  void (*read)(const Streams&, const float* x, float* z, float* norm, float* coefficients, float* u);
  // slopes of u, of the coefficients (post and comb) and of x where it is written to
  void (*read_back)(const Streams&, const float* x, const float* z, const float* norm,
                    const float* coefficients, const float* of_u, const float* of_coefficients,
                    const float* of_x, const StreamSlopes&);
  void (*write)(const HyperShape&, int64_t tokens, const float* x, const float* y,
                const float* coefficients, float* written);
  void (*write_back)(const HyperShape&, int64_t tokens, const float* x, const float* y,
                     const float* coefficients, const float* slope, float* to_x, float* to_y,
                     float* to_coefficients);
  // o like q, levels [b, n, heads] for the backward; mass, zeros unless it is null: of each entry, or
  // of each picked one, the attention of all heads
  void (*attend)(const SparseAttention&, float* o, float* levels, float* mass);
  void (*attend_back)(const SparseAttention&, const float* levels, const float* slope, float* to_q,
                      float* to_window, float* to_entries, float* to_sink);
  void (*rows)(const Rows&, const float* x, float* y);
  void (*rows_back)(const Rows&, const float* x, const float* slope, float* to_x, float* to_weight);
  // Logits [rows, words] become slopes of Σ losses · factor (none wanted: 0); a target below 0 is none
  void (*surprise)(int64_t rows, int64_t words, const int64_t* targets, float factor, float* logits,
                   float* losses);
  // ops/compress.py: values and scores [blocks, depth, c] → y [blocks, c]
  void (*pool)(int64_t blocks, int64_t depth, int64_t c, const float* values, const float* scores,
               float* y);
  void (*pool_back)(int64_t blocks, int64_t depth, int64_t c, const float* values,
                    const float* scores, const float* y, const float* slope, float* to_values,
                    float* to_scores);
  // A number's result does not depend on where it lies
  void (*adam)(const Adam&, int64_t count, const float* slope, float* weight, float* mean,
               float* square);
};

}  // namespace dsv4
