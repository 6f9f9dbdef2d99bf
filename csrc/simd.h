// Sixteen float lanes on every machine: the compiler's vector type, split where registers are
// narrower, so that sums run in one order everywhere. Included once per instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// For what innermost loops call: a real call there would keep every vector in memory.
#define DSV4_INLINE __attribute__((always_inline))

namespace dsv4::DSV4_ISA {

constexpr int LANES = 16;

typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));

// As many lanes as a register has, for sums that stay in their lane.
#if defined(__AVX512F__)
typedef v16 vn;
#elif defined(__AVX__)
typedef v8 vn;
#else
typedef v4 vn;
#endif
constexpr int WIDTH = sizeof(vn) / sizeof(float);

inline vn load_vn(const float* p) {
  vn v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store_vn(float* p, vn v) { std::memcpy(p, &v, sizeof v); }

inline v16 load(const float* p) {
  v16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, v16 v) { std::memcpy(p, &v, sizeof v); }
inline v16 splat(float x) { return v16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
inline v16 zero() { return v16{}; }

template <class To, class From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline v16 fma(v16 a, v16 b, v16 c) { return a * b + c; }  // contracted where there is an FMA
// b where either is NaN: what may be NaN and must stay it comes second.
inline v16 maximum(v16 a, v16 b) { return a > b ? a : b; }
inline v16 minimum(v16 a, v16 b) { return a < b ? a : b; }

// Sixteen bytes, or sixteen 16-bit words, one in each lane.
inline u16 widen(const uint8_t* p) {
#if defined(__AVX512F__)
  return (u16)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));  // GCC's own is slower
#else
  typedef uint8_t b16 __attribute__((vector_size(16)));
  b16 v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, u16);
#endif
}
inline i16 widen(const int8_t* p) {
#if defined(__AVX512F__)
  return (i16)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
#else
  typedef int8_t b16 __attribute__((vector_size(16)));
  b16 v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, i16);
#endif
}
inline u16 widen(const uint16_t* p) {
#if defined(__AVX512F__)
  return (u16)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
#else
  typedef uint16_t h16 __attribute__((vector_size(32)));
  h16 v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, u16);
#endif
}

// The first `count` of 16 floats, then zeros.
inline v16 load_part(const float* p, int64_t count) {
  float padded[LANES] = {};
  std::memcpy(padded, p, count * sizeof(float));
  return load(padded);
}

// One tree for every sum over lanes: 16 → 8 → 4 → 2 → 1, halves added.
inline float sum(v16 v) {
  const v8 eight = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const v4 four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                  __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// e^x for x ≤ 88: 2^n · p(f), n the nearest integer to x·log2(e); relative error below 3e-7.
inline v16 exponential(v16 x) {
  x = minimum(splat(88.0f), maximum(splat(-104.0f), x));
  const v16 shift = splat(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer
  const v16 n = fma(x, splat(1.44269504f), shift) - shift;
  v16 f = fma(n, splat(-0.693359375f), x);
  f = fma(n, splat(2.12194440e-4f), f);
  v16 p = splat(1.9875691500e-4f);
  p = fma(p, f, splat(1.3981999507e-3f));
  p = fma(p, f, splat(8.3334519073e-3f));
  p = fma(p, f, splat(4.1665795894e-2f));
  p = fma(p, f, splat(1.6666665459e-1f));
  p = fma(p, f, splat(5.0000001201e-1f));
  p = fma(p, f * f, f) + splat(1.0f);
  // two factors, since 2^n alone may be below the smallest normal number
  const i16 whole = __builtin_convertvector(n, i16);
  const i16 half = whole >> 1;
  const v16 first = bits<v16>((half + 127) << 23);
  const v16 second = bits<v16>((whole - half + 127) << 23);
  return p * first * second;
}

}  // namespace dsv4::DSV4_ISA
