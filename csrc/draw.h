// The next token of each row of logits: what ops/draw.py says, to the bit.
#pragma once

#include <cstdint>

namespace dsv4 {

// Of each row, the tokens that may come side by side: the `counts[r]` likeliest, falling, or all of
// the vocabulary by id. Between `weigh` and `pick` the caller takes e to the power of `weights`.
struct Draws {
  int64_t rows, vocabulary;
  const float* logits;        // [rows, vocabulary]; −∞: may not come
  const int64_t* counts;      // [rows]
  int32_t* ids;               // [Σ counts], written where not all may come; −1: nothing more may
  double* weights;            // [Σ counts]
  const double* temperatures; // [rows]
  const double *top_p, *min_p, *uniforms;  // [rows]; top_p ∞ cuts nothing
};

}  // namespace dsv4

namespace dsv4::DSV4_ISA {

// Of rows x [rows, n]: the lowest and the highest, NaN if there is one, and the first highest's place.
void survey_rows(const float* x, int64_t rows, int64_t n, float* lowest, float* highest, int64_t* best);
void weigh_rows(const Draws& draws);
void pick_rows(const Draws& draws, int64_t* chosen);

}  // namespace dsv4::DSV4_ISA
