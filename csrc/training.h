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
};

}  // namespace dsv4
