// How one row of a packed weight is read, 64 columns (a group) at a time.
//
// Each reader names the operand type it multiplies in (`Operand`: bfloat16 bits where the machine
// has a bfloat16 dot product, else float), the order in which it delivers a group's columns, and
// `at(group, out)`: VECTORS vectors of operands. Activations are laid in the same order by
// `arrange`, so no column is ever moved back. A reader begins with what rows share that lie in the
// same 128 (`Shared`): FP8's tables with the scales folded in.
#pragma once

#include <algorithm>

#include "matrix.h"
#include "numeric.h"
#include "scratch.h"

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__) && defined(__AVX512BW__)
#define DSV4_DOT_BF16 1
#else
#define DSV4_DOT_BF16 0
#endif

namespace dsv4::DSV4_ISA {

constexpr int64_t GROUP = 64;

inline int64_t groups_of(int64_t columns) { return (columns + GROUP - 1) / GROUP; }

// ---- operands: what multiplies, and how --------------------------------------------------------

struct FloatOperand {
  using Type = float;
  using Vector = v16;
  static constexpr int COUNT = 16;
  static Vector read(const Type* p) { return load(p); }
  static void write(Type* p, Vector v) { store(p, v); }
  static v16 accumulate(v16 sum, Vector a, Vector w) { return fma(a, w, sum); }
};

#if DSV4_DOT_BF16
struct Bf16Operand {
  using Type = uint16_t;
  using Vector = __m512i;
  static constexpr int COUNT = 32;
  static Vector read(const Type* p) { return _mm512_loadu_si512(p); }
  static void write(Type* p, Vector v) { _mm512_storeu_si512(p, v); }
  static v16 accumulate(v16 sum, Vector a, Vector w) {
    return (v16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)w);
  }
};
using LowOperand = Bf16Operand;
#else
using LowOperand = FloatOperand;
#endif
using Low = LowOperand::Type;

inline Low to_low(float x) {
#if DSV4_DOT_BF16
  return to_bf16(x);
#else
  return round_bf16(x);
#endif
}

// ---- readers -----------------------------------------------------------------------------------

struct Nothing {
  Nothing(const Matrix&, int64_t, Arena&) {}
};

// float32 weight, float32 product.
struct F32Row {
  using Operand = FloatOperand;
  using Shared = Nothing;
  static constexpr int VECTORS = 4;
  const float* data;
  int64_t columns;
  F32Row(const Matrix& w, int64_t r, const Nothing&)
      : data(reinterpret_cast<const float*>(w.row(r))), columns(w.columns) {}
  DSV4_INLINE void at(int64_t group, v16* out) const {
    const float* p = data + group * GROUP;
    const int64_t left = columns - group * GROUP;
    for (int i = 0; i < VECTORS; ++i, p += LANES) {
      if (left >= GROUP) {
        out[i] = load(p);
      } else {
        const int64_t some = std::min<int64_t>(left - i * LANES, LANES);
        out[i] = some > 0 ? load_part(p, some) : zero();
      }
    }
  }
  static int64_t column(int64_t place) { return place; }
};

// bfloat16 weight, float32 product: even columns of 32, then odd ones.
struct Bf16AsFloatRow {
  using Operand = FloatOperand;
  using Shared = Nothing;
  static constexpr int VECTORS = 4;
  const uint16_t* data;
  int64_t columns;
  Bf16AsFloatRow(const Matrix& w, int64_t r, const Nothing&)
      : data(reinterpret_cast<const uint16_t*>(w.row(r))), columns(w.columns) {}
  DSV4_INLINE void at(int64_t group, v16* out) const {
    const int64_t left = columns - group * GROUP;
    for (int i = 0; i < 2; ++i) {
      const uint16_t* p = data + group * GROUP + 32 * i;
      u16 pairs{};
      if (left >= GROUP) {
        std::memcpy(&pairs, p, 64);
      } else if (left > 32 * i) {
        std::memcpy(&pairs, p, std::min<int64_t>(left - 32 * i, 32) * 2);
      }
      out[2 * i] = bits<v16>(pairs << 16);
      out[2 * i + 1] = bits<v16>(pairs & 0xFFFF0000u);
    }
  }
  static int64_t column(int64_t place) {
    const int64_t in = place % 32;
    return place - in + (in < 16 ? 2 * in : 2 * (in - 16) + 1);
  }
};

#if DSV4_DOT_BF16

inline __m512i load_bytes(const uint8_t* p, int64_t left) {
  if (left >= 64) return _mm512_loadu_si512(p);
  if (left <= 0) return _mm512_setzero_si512();
  return _mm512_maskz_loadu_epi8((1ULL << left) - 1, p);
}

// bfloat16 weight, bfloat16 product, columns as they stand.
struct Bf16Row {
  using Operand = Bf16Operand;
  using Shared = Nothing;
  static constexpr int VECTORS = 2;
  const uint8_t* data;
  int64_t bytes;
  Bf16Row(const Matrix& w, int64_t r, const Nothing&) : data(w.row(r)), bytes(2 * w.columns) {}
  DSV4_INLINE void at(int64_t group, __m512i* out) const {
    const int64_t first = group * 128;
    out[0] = load_bytes(data + first, bytes - first);
    out[1] = load_bytes(data + first + 64, bytes - first - 64);
  }
  static int64_t column(int64_t place) { return place; }
};

// E4M3 → bfloat16: both bytes by table, the sign on top; words are unpacked within 16-byte lanes.
// A scale adds to the exponents of all values but zero and NaN.
struct Fp8Tables {
  alignas(64) uint16_t values[128];
  Fp8Tables() {
    for (int code = 0; code < 128; ++code) {
      values[code] = to_bf16(decode_e4m3(static_cast<uint8_t>(code)));
    }
  }
};
inline const Fp8Tables FP8_TABLES;

struct Fp8Row {
  using Operand = Bf16Operand;
  static constexpr int VECTORS = 2;
  // For each 128 columns the low bytes of 128 values, then the high ones.
  struct Shared {
    uint8_t* tables;
    Shared(const Matrix& w, int64_t r, Arena& arena) {
      const int64_t blocks = (w.columns + FP8_BLOCK - 1) / FP8_BLOCK;
      tables = arena.take<uint8_t>(blocks * 256);
      for (int64_t block = 0; block < blocks; ++block) {
        const int e = static_cast<int>(bits<uint32_t>(w.row_fp8_scale(r)[block]) >> 23) - 127;
        const __m512i step = _mm512_set1_epi16(static_cast<short>(e * 128));
        for (int i = 0; i < 4; ++i) {
          const __m512i values = _mm512_load_si512(FP8_TABLES.values + 32 * i);
          const __mmask32 scales = i == 0 ? ~1u : i == 3 ? ~0u >> 1 : ~0u;
          const __m512i scaled = _mm512_mask_add_epi16(values, scales, values, step);
          uint8_t* to = tables + 256 * block + 32 * i;
          _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi16_epi8(scaled));
          _mm256_storeu_si256((__m256i*)(to + 128),
                              _mm512_cvtepi16_epi8(_mm512_srli_epi16(scaled, 8)));
        }
      }
    }
  };
  const uint8_t *data, *tables;
  int64_t columns;
  Fp8Row(const Matrix& w, int64_t r, const Shared& shared)
      : data(w.row(r)), tables(shared.tables), columns(w.columns) {}
  DSV4_INLINE void at(int64_t group, __m512i* out) const {
    const __m512i codes = load_bytes(data + group * GROUP, columns - group * GROUP);
    const uint8_t* t = tables + group * GROUP / FP8_BLOCK * 256;
    const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(t), codes,
                                                 _mm512_load_si512(t + 64));
    __m512i high = _mm512_permutex2var_epi8(_mm512_load_si512(t + 128), codes,
                                            _mm512_load_si512(t + 192));
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
    high = _mm512_ternarylogic_epi32(high, codes, sign, 0xF8);  // high | (codes & sign)
    out[0] = _mm512_unpacklo_epi8(low, high);
    out[1] = _mm512_unpackhi_epi8(low, high);
  }
  static int64_t column(int64_t place) {
    const int64_t in = place % 64, vector = in / 32, word = in % 32;
    return place - in + (word / 8) * 16 + vector * 8 + word % 8;
  }
};

// E2M1 → bfloat16 by a table of 16 values for each of a group's two blocks, scales folded in.
struct Fp4Tables {
  alignas(64) uint16_t values[32];
  Fp4Tables() {
    for (int i = 0; i < 32; ++i) values[i] = to_bf16(decode_e2m1(static_cast<uint8_t>(i % 16)));
  }
};
inline const Fp4Tables FP4_TABLES;

struct Fp4Row {
  using Operand = Bf16Operand;
  using Shared = Nothing;
  static constexpr int VECTORS = 2;
  const uint8_t* data;
  const uint8_t* scale;
  int64_t columns;
  __m512i table, upper;
  __m512i exponents, places;  // of the sixteen groups that `at` is among
  uint32_t unusual = 0;       // which of their blocks have scales that cannot be added
  Fp4Row(const Matrix& w, int64_t r, const Nothing&)
      : data(w.row(r)), scale(w.row_fp4_scale(r)), columns(w.columns) {
    table = _mm512_load_si512(FP4_TABLES.values);
    upper = _mm512_mask_set1_epi16(_mm512_setzero_si512(), 0xFFFF0000u, 16);
  }
  // Groups are asked for one after another, from the first.
  DSV4_INLINE void at(int64_t group, __m512i* out) {
    if (group % 16 == 0) next_scales(group);
    const uint8_t* p = data + group * (GROUP / 2);
    const bool half = columns - group * GROUP < GROUP;
    const __m256i bytes = half ? _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i*)p))
                               : _mm256_loadu_si256((const __m256i*)p);
    const __m512i wide = _mm512_cvtepu8_epi16(bytes);
    __m512i scaled = _mm512_mask_add_epi16(
        table, 0xFEFEFEFEu, table, _mm512_permutexvar_epi16(places, exponents));
    if (unusual != 0) [[unlikely]] {
      if (unusual >> group % 16 * 2 & 3) scaled = product_table(group, half);
    }
    places = _mm512_add_epi16(places, _mm512_set1_epi16(2));
    const __m512i first = _mm512_ternarylogic_epi32(wide, _mm512_set1_epi16(15), upper, 0xEA);
    const __m512i second = _mm512_or_si512(_mm512_srli_epi16(wide, 4), upper);
    out[0] = _mm512_permutexvar_epi16(first, scaled);
    out[1] = _mm512_permutexvar_epi16(second, scaled);
  }
  // Exponents of 32 blocks; words 0–15 of a table take a group's first one, 16–31 its second.
  DSV4_INLINE void next_scales(int64_t group) {
    const int64_t left = columns / FP4_BLOCK - 2 * group;
    const __mmask32 some = left >= 32 ? 0xFFFFFFFFu : (1u << left) - 1;
    const __m256i bytes = _mm256_maskz_loadu_epi8(some, scale + 2 * group);
    exponents = _mm512_slli_epi16(
        _mm512_sub_epi16(_mm512_cvtepu8_epi16(bytes), _mm512_set1_epi16(127)), 7);
    // 2 … 252 keep 0.5 · scale and 6 · scale among the normal numbers
    unusual = _mm256_mask_cmpgt_epu8_mask(some, _mm256_sub_epi8(bytes, _mm256_set1_epi8(2)),
                                          _mm256_set1_epi8(static_cast<char>(250)));
    places = _mm512_mask_set1_epi16(_mm512_setzero_si512(), 0xFFFF0000u, 1);
  }
  // Values times scales as float32 has them: infinite, NaN or subnormal (then the product has 0).
  __attribute__((noinline)) __m512i product_table(int64_t group, bool half) const {
    alignas(64) uint16_t found[32];
    for (int i = 0; i < 32; ++i) {
      const int e = i < 16 ? scale[2 * group] : half ? 127 : scale[2 * group + 1];
      found[i] = to_bf16(decode_e2m1(static_cast<uint8_t>(i % 16)) * from_e8m0(e));
    }
    return _mm512_load_si512(found);
  }
  static int64_t column(int64_t place) {
    const int64_t in = place % 64;
    return place - in + (in < 32 ? 2 * in : 2 * (in - 32) + 1);
  }
};

#else  // float operands, exactly representable in bfloat16

struct Bf16Row : Bf16AsFloatRow {
  using Bf16AsFloatRow::Bf16AsFloatRow;
};

struct Fp8Row {
  using Operand = FloatOperand;
  using Shared = Nothing;
  static constexpr int VECTORS = 4;
  const uint8_t* data;
  const float* scale;
  int64_t columns;
  Fp8Row(const Matrix& w, int64_t r, const Nothing&)
      : data(w.row(r)), scale(w.row_fp8_scale(r)), columns(w.columns) {}
  DSV4_INLINE void at(int64_t group, v16* out) const {
    typedef int8_t b16 __attribute__((vector_size(16)));
    const float factor = scale[group * GROUP / FP8_BLOCK];
    for (int i = 0; i < VECTORS; ++i) {
      const int64_t first = group * GROUP + i * LANES;
      const int64_t count = std::min<int64_t>(LANES, columns - first);
      b16 codes{};
      if (count > 0) std::memcpy(&codes, data + first, count);
      out[i] = decode_e4m3(__builtin_convertvector(codes, i16), factor);
    }
  }
  static int64_t column(int64_t place) { return place; }
};

struct Fp4Row {
  using Operand = FloatOperand;
  using Shared = Nothing;
  static constexpr int VECTORS = 4;
  const uint8_t* data;
  const uint8_t* scale;
  int64_t columns;
  Fp4Row(const Matrix& w, int64_t r, const Nothing&)
      : data(w.row(r)), scale(w.row_fp4_scale(r)), columns(w.columns) {}
  DSV4_INLINE void at(int64_t group, v16* out) const {
    typedef uint8_t b16 __attribute__((vector_size(16)));
    for (int block = 0; block < 2; ++block) {
      if (group * GROUP + block * FP4_BLOCK >= columns) {
        out[2 * block] = out[2 * block + 1] = zero();
        continue;
      }
      b16 bytes;
      std::memcpy(&bytes, data + group * 32 + block * 16, 16);
      const float factor = from_e8m0(scale[2 * group + block]);
      const u16 wide = __builtin_convertvector(bytes, u16);
      out[2 * block] = value(wide & 15u, factor);
      out[2 * block + 1] = value(wide >> 4, factor);
    }
  }
  static v16 value(u16 code, float factor) {  // sign 3, exponent 2–1, mantissa 0
    const v16 magnitude = bits<v16>((code & 7u) << 22) * 0x1p126f * factor;
    return bits<v16>(bits<u16>(magnitude) | ((code & 8u) << 28));
  }
  static int64_t column(int64_t place) {
    const int64_t in = place % 32;
    return place - in + (in < 16 ? 2 * in : 2 * (in - 16) + 1);
  }
};

#endif

}  // namespace dsv4::DSV4_ISA
