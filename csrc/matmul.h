// y[t, o] = Σ_k x[t, k] · w[o, k] for packed w, many products in one parallel region.
//
// Up to eight rows multiply while the weight unpacks (dot.h); more rows unpack sixteen weight rows into
// a panel and run 4 × 4 tiles over it. Both add the same numbers in the same order, so a row's result
// does not depend on the rows beside it.
#pragma once

#include <vector>

#include "pool.h"
#include "rows.h"
#include "scratch.h"

namespace dsv4::DSV4_ISA {

enum class Precision : uint8_t { LOW, FULL };  // bfloat16 or float32 activations

// Activations laid out for one weight format: [rows, stride] operands.
struct Arranged {
  Format format = Format::F32;
  Precision precision = Precision::FULL;
  int64_t rows = 0, columns = 0, stride = 0;  // stride in operands
  const void* data = nullptr;
  const float* source = nullptr;  // the floats that were arranged
  int64_t source_stride = 0;

  template <class Type>
  const Type* row(int64_t r) const {
    return static_cast<const Type*>(data) + r * stride;
  }
};

// Lays x [rows, columns] out for weights of `format`, in memory of `arena`.
Arranged arrange(Pool& pool, const float* x, int64_t rows, int64_t columns, int64_t source_stride,
                 Format format, Precision precision, Arena& arena);

struct Product {
  const Matrix* w = nullptr;
  int64_t first = 0, last = 0;  // rows of w
  const Arranged* x = nullptr;
  int64_t count = 0;                     // rows of the product
  const int32_t* x_rows = nullptr;       // which rows of x (default 0, 1, …)
  const int32_t* y_rows = nullptr;       // where they go in y (default the same)
  float* y = nullptr;                    // [.., stride]; column o − first
  int64_t y_stride = 0;
};

void multiply(Pool& pool, const std::vector<Product>& products);

}  // namespace dsv4::DSV4_ISA
