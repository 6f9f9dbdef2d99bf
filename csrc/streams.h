// Residual streams as floats: in place where they are float32 and lie together, else through a copy.
#pragma once

#include <cstring>

#include "entries.h"
#include "pool.h"
#include "scratch.h"

namespace dsv4::DSV4_ISA {

constexpr int64_t COPIES = 16;  // rows that are not worth a second thread

// Row r of `from` [rows, width] becomes row sources[r] of x: float32, or bfloat16 where exact.
inline void write_rows(Pool& pool, const float* from, void* x, const int64_t* sources, int64_t rows,
                       int64_t width, bool exact) {
  pool.run(rows, COPIES, [&](int64_t r, int) {
    const float* row = from + r * width;
    if (!exact) {
      std::memcpy(static_cast<float*>(x) + sources[r] * width, row, width * sizeof(float));
      return;
    }
    uint16_t* to = static_cast<uint16_t*>(x) + sources[r] * width;
    for (int64_t i = 0; i < width; ++i) to[i] = to_bf16(row[i]);
  });
}

class Streams {
 public:
  // Row r of `rows` lies in row sources[r] of x [.., width].
  Streams(Pool& pool, void* x, const int64_t* sources, int64_t rows, int64_t width, bool exact,
          Arena& arena)
      : pool_(pool), x_(x), sources_(sources), rows_(rows), width_(width), exact_(exact) {
    if (!exact && sources[rows - 1] - sources[0] == rows - 1) {
      data_ = static_cast<float*>(x) + sources[0] * width;
      return;
    }
    copied_ = true;
    data_ = arena.take<float>(rows * width);
    pool.run(rows, COPIES, [&](int64_t r, int) {
      float* row = data_ + r * width_;
      if (!exact_) {
        std::memcpy(row, floats(r), width_ * sizeof(float));
      } else {
        for (int64_t i = 0; i < width_; ++i) row[i] = from_bf16(halves(r)[i]);
      }
    });
  }
  float* data() { return data_; }
  void write_back() {
    if (copied_) write_rows(pool_, data_, x_, sources_, rows_, width_, exact_);
  }

 private:
  float* floats(int64_t r) const { return static_cast<float*>(x_) + sources_[r] * width_; }
  uint16_t* halves(int64_t r) const { return static_cast<uint16_t*>(x_) + sources_[r] * width_; }

  Pool& pool_;
  void* x_;
  const int64_t* sources_;
  int64_t rows_, width_;
  bool exact_, copied_ = false;
  float* data_ = nullptr;
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
