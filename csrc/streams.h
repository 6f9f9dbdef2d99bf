// Residual streams as floats: in place where they are float32, through a copy where bfloat16.
#pragma once

#include "entries.h"
#include "pool.h"
#include "scratch.h"

namespace dsv4::DSV4_ISA {

class Streams {
 public:
  Streams(void* x, int64_t first, int64_t rows, int64_t width, bool exact, Arena& arena)
      : count_(rows * width) {
    if (!exact) {
      data_ = static_cast<float*>(x) + first * width;
      return;
    }
    stored_ = static_cast<uint16_t*>(x) + first * width;
    data_ = arena.take<float>(count_);
    for (int64_t i = 0; i < count_; ++i) data_[i] = from_bf16(stored_[i]);
  }
  float* data() { return data_; }
  void write_back() {
    if (stored_ == nullptr) return;
    for (int64_t i = 0; i < count_; ++i) stored_[i] = to_bf16(data_[i]);
  }

 private:
  int64_t count_;
  float* data_ = nullptr;
  uint16_t* stored_ = nullptr;
};

// u → RMSNorm(u) in place, each rounded to the storage precision.
inline void normalise(Pool& pool, float* u, const float* weight, int64_t rows, int64_t n, float eps,
                      bool exact) {
  pool.run(rows, 8, [&](int64_t r, int) {
    float* row = u + r * n;
    store_precision(row, n, exact);
    rms_norm(row, weight, n, eps, row);
    store_precision(row, n, exact);
  });
}

}  // namespace dsv4::DSV4_ISA
