// The number formats, one value at a time and in short runs: bfloat16, E4M3, E2M1, E8M0.
#pragma once

#include <algorithm>

#include "simd.h"

namespace dsv4::DSV4_ISA {

// ---- bfloat16 --------------------------------------------------------------------------------

inline uint16_t to_bf16(float x) {  // round to nearest, ties to even
  if (x != x) return 0x7FC0;  // else a NaN could be rounded to infinity, or to zero
  const uint32_t u = bits<uint32_t>(x);
  return static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}
inline float from_bf16(uint16_t x) { return bits<float>(static_cast<uint32_t>(x) << 16); }
inline v16 round_bf16(v16 x) {
  const u16 u = bits<u16>(x);
  const u16 rounded = (u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000u;
  return bits<v16>(x == x ? rounded : u16{} + 0x7FC00000u);
}
inline float round_bf16(float x) { return from_bf16(to_bf16(x)); }

// Rounds n floats in place where `wanted`: the storage precision of exact arithmetic.
inline void store_precision(float* x, int64_t n, bool wanted) {
  if (!wanted) return;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(x + i, round_bf16(load(x + i)));
  for (; i < n; ++i) x[i] = round_bf16(x[i]);
}

// ---- power-of-two scales ---------------------------------------------------------------------

// The smallest power of two not below max(amax, floor) / largest, as its biased exponent (E8M0);
// 255, which stands for NaN, where amax is NaN or infinite.
inline int scale_exponent(float amax, float largest, float floor) {
  const uint32_t u = bits<uint32_t>(std::max(amax, floor) / largest);
  return std::min<int>((u + 0x7FFFFF) >> 23, 255);
}
// 2^(e − 127); e = 0 is the subnormal 2^-127.
inline float from_e8m0(int e) {
  if (e == 255) return NAN;
  return bits<float>(e > 0 ? static_cast<uint32_t>(e) << 23 : 0x00400000u);
}

// Compared as integers, among which NaN is the largest.
inline float largest_magnitude(const float* x, int64_t n) {
  u16 m{};
  for (int64_t i = 0; i < n; i += LANES) {
    const v16 v = n - i >= LANES ? load(x + i) : load_part(x + i, n - i);
    const u16 u = bits<u16>(v) & 0x7FFFFFFFu;
    m = u > m ? u : m;
  }
  uint32_t found = 0;
  for (int l = 0; l < LANES; ++l) found = std::max<uint32_t>(found, m[l]);
  return bits<float>(found);
}

// ---- E4M3 ------------------------------------------------------------------------------------

// Rounds |x| ≤ 448 to the nearest E4M3 number, ties to even: adding and taking away a number whose
// last mantissa bit is worth one step. A step is 2^(exponent − 3), and 2^-9 below 2^-6.
inline v16 round_e4m3(v16 x) {
  const v16 magnitude = maximum(x, -x);
  const u16 exponent = bits<u16>(maximum(magnitude, splat(0x1p-6f))) & 0x7F800000u;
  const v16 big = bits<v16>(exponent + (20u << 23));  // 2^(exponent + 20): step = 2^(exponent − 3)
  const v16 rounded = (magnitude + big) - big;
  return bits<v16>((bits<u16>(x) & 0x80000000u) | bits<u16>(minimum(rounded, splat(448.0f))));
}
// The code of a number that is one of E4M3's.
inline uint8_t encode_e4m3(float x) {
  const uint32_t u = bits<uint32_t>(std::fabs(x) * 0x1p-120f);  // its exponent field is E4M3's
  return static_cast<uint8_t>((std::signbit(x) ? 0x80 : 0) | (u >> 20));
}
inline float decode_e4m3(uint8_t code) {
  if ((code & 0x7F) == 0x7F) return NAN;
  const float magnitude = bits<float>(static_cast<uint32_t>(code & 0x7F) << 20) * 0x1p120f;
  return code & 0x80 ? -magnitude : magnitude;
}

// Sixteen codes, one in each lane with its sign extended, times a scale.
inline v16 decode_e4m3(i16 codes, float scale) {
  const u16 wide = (u16)codes;  // the sign stays on top, exponent and mantissa come to their places
  const v16 value = bits<v16>((wide << 20) & 0x87F00000u) * 0x1p120f * scale;
  return (wide & 0x7Fu) == 0x7Fu ? splat(NAN) : value;
}

constexpr float E4M3_LARGEST = 448.0f, E4M3_FLOOR = 1e-4f;

// Rounds x in place to E4M3 · 2^k in groups of `block`, the last one maybe shorter.
inline void round_fp8(float* x, int64_t n, int64_t block) {
  for (int64_t first = 0; first < n; first += block) {
    const int64_t count = std::min(block, n - first);
    float* group = x + first;
    const int e = scale_exponent(largest_magnitude(group, count), E4M3_LARGEST, E4M3_FLOOR);
    const v16 scale = splat(from_e8m0(e)), inverse = splat(1.0f / from_e8m0(e));
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
      store(group + i, round_e4m3(load(group + i) * inverse) * scale);
    }
    if (i < count) {
      float rest[LANES];
      store(rest, round_e4m3(load_part(group + i, count - i) * inverse) * scale);
      std::memcpy(group + i, rest, (count - i) * sizeof(float));
    }
  }
}

// ---- E2M1 ------------------------------------------------------------------------------------

constexpr float E2M1_LARGEST = 6.0f, E2M1_FLOOR = 6 * 0x1p-126f;
constexpr float E2M1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                            -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

// Rounds to the nearest E2M1 number as `round_e4m3` does: a step is 2^(exponent − 1), 0.5 below 1.
inline v16 round_e2m1(v16 x) {
  const v16 magnitude = maximum(x, -x);
  const u16 exponent = bits<u16>(maximum(magnitude, splat(1.0f))) & 0x7F800000u;
  const v16 big = bits<v16>(exponent + (22u << 23));
  const v16 rounded = (magnitude + big) - big;
  return bits<v16>((bits<u16>(x) & 0x80000000u) | bits<u16>(minimum(rounded, splat(6.0f))));
}
inline uint8_t encode_e2m1(float x) {  // nearest, ties to the even code, saturating
  const float m = std::fabs(x);
  const int code = (m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) +
                   (m >= 3.5f) + (m > 5.0f);
  return static_cast<uint8_t>(code | (std::signbit(x) ? 8 : 0));
}
inline float decode_e2m1(uint8_t code) { return E2M1[code & 15]; }

}  // namespace dsv4::DSV4_ISA
