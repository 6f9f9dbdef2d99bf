// The input of linears: laid out once for each weight format that reads it.
// Exact arithmetic rounds the input of FP8 and FP4 weights to FP8 in groups of 128.
#pragma once

#include <array>
#include <optional>

#include "matmul.h"

namespace dsv4::DSV4_ISA {

class Inputs {
 public:
  Inputs(Pool& pool, Arena& arena, const float* x, int64_t rows, int64_t columns, int64_t stride,
         bool round)
      : pool_(pool), arena_(arena), x_(x), rows_(rows), columns_(columns), stride_(stride),
        round_(round) {}

  const Arranged* low(Format format) { return get(format, Precision::LOW); }
  const Arranged* full(Format format) { return get(format, Precision::FULL); }

 private:
  const Arranged* get(Format format, Precision precision) {
    auto& found = made_[static_cast<int>(precision)][static_cast<int>(format)];
    if (!found) {
      const bool packed = format == Format::FP8 || format == Format::FP4;
      const bool rounds = round_ && packed && precision == Precision::LOW;
      const float* x = rounds ? rounded() : x_;
      found = arrange(pool_, x, rows_, columns_, rounds ? columns_ : stride_, format, precision,
                      arena_);
    }
    return &*found;
  }
  const float* rounded() {
    if (rounded_ == nullptr) {
      float* copy = arena_.take<float>(rows_ * columns_);
      pool_.run(rows_, 8, [&](int64_t r, int) {
        std::memcpy(copy + r * columns_, x_ + r * stride_, columns_ * sizeof(float));
        round_fp8(copy + r * columns_, columns_, FP8_BLOCK);
      });
      rounded_ = copy;
    }
    return rounded_;
  }

  Pool& pool_;
  Arena& arena_;
  const float* x_;
  int64_t rows_, columns_, stride_;
  bool round_;
  const float* rounded_ = nullptr;
  std::array<std::array<std::optional<Arranged>, 4>, 2> made_;
};

}  // namespace dsv4::DSV4_ISA
