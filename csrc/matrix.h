// A weight as it lies in the file: [rows, columns] in one of four formats, never expanded.
#pragma once

#include <cstdint>

namespace dsv4 {

enum class Format : uint8_t { F32, BF16, FP8, FP4 };

constexpr int64_t FP8_BLOCK = 128, FP4_BLOCK = 32;

struct Matrix {
  Format format = Format::F32;
  int64_t rows = 0, columns = 0;
  const void* data = nullptr;
  const float* fp8_scale = nullptr;    // [⌈rows/128⌉, ⌈columns/128⌉], powers of two
  const uint8_t* fp4_scale = nullptr;  // E8M0 [rows, columns/32]
  int32_t unit = -1;  // of its model's Residency; −1: always in memory

  int64_t row_bytes() const {
    switch (format) {
      case Format::F32: return 4 * columns;
      case Format::BF16: return 2 * columns;
      case Format::FP8: return columns;
      case Format::FP4: return columns / 2;
    }
    return 0;
  }
  const uint8_t* row(int64_t r) const {
    return static_cast<const uint8_t*>(data) + r * row_bytes();
  }
  const float* row_fp8_scale(int64_t r) const {
    return fp8_scale + (r / FP8_BLOCK) * ((columns + FP8_BLOCK - 1) / FP8_BLOCK);
  }
  const uint8_t* row_fp4_scale(int64_t r) const {
    return fp4_scale + r * (columns / FP4_BLOCK);
  }
};

}  // namespace dsv4
