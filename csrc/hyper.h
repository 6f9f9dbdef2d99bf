// mHC around a sub-layer F:  u = Σ_j pre_j · x_j;  y = F(u);  x'_k = post_k · y + Σ_j comb[j, k] · x_j
// with z = (x fnᵀ) · rsqrt(mean(x²) + ε) and pre, post, comb from z by sigmoids and Sinkhorn.
#pragma once

#include "layer.h"
#include "matmul.h"

namespace dsv4::DSV4_ISA {

// x [tokens, hc·d] → u [tokens, d], and coefficients [tokens, (2 + hc)·hc]: pre | post | comb.
// With `head`, pre only: coefficients [tokens, hc].
void collapse(Pool& pool, const HyperShape& shape, const Hyper& weights, bool head, const float* x,
              int64_t tokens, float* coefficients, float* u, Arena& arena);

// x'_k in place of x, from y [tokens, d].
void expand(Pool& pool, const HyperShape& shape, const float* coefficients, const float* y,
            int64_t tokens, float* x);

}  // namespace dsv4::DSV4_ISA
