// Matrix products of training: float32 in and out, of any layout, many in one parallel region.
#pragma once

#include <vector>

#include "pool.h"
#include "scratch.h"

namespace dsv4 {

// A matrix as it lies: rows of `stride` floats, perhaps chosen by number. `turned`: its transpose.
struct Side {
  const float* data = nullptr;
  int64_t stride = 0;
  bool turned = false;
  const int64_t* chosen = nullptr;
  const float* row(int64_t i) const { return data + (chosen ? chosen[i] : i) * stride; }
};

// c [m, n] = a [m, k] · b [k, n], or added to c.
struct MatrixProduct {
  Side a, b;
  float* c = nullptr;
  int64_t c_stride = 0, m = 0, n = 0, k = 0;
  bool add = false;
};

}  // namespace dsv4

namespace dsv4::DSV4_ISA {

// `low`: operands are rounded to bfloat16; sums are float32 all the same. A sum runs over k in order,
// block by block: it depends neither on threads nor on the other products.
void multiply(Pool& pool, Arena& arena, const std::vector<MatrixProduct>& products, bool low);

}  // namespace dsv4::DSV4_ISA
