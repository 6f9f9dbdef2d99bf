// Cache rows as bytes, and the two operations before them: norms and rotary positions.
//
// entry: (c − r) E4M3 codes | r bfloat16 rotary channels | ⌈(c − r)/64⌉ E8M0 scales
// key:   ic/2 bytes of E2M1 codes, even channel low | ⌈ic/32⌉ E8M0 scales
#pragma once

#include "layer.h"
#include "numeric.h"

namespace dsv4::DSV4_ISA {

inline void pack_entry(const float* x, int64_t c, int64_t r, uint8_t* row) {
  const int64_t plain = c - r;
  uint8_t* scales = row + plain + 2 * r;
  for (int64_t first = 0; first < plain; first += ENTRY_BLOCK) {
    const int64_t count = std::min(ENTRY_BLOCK, plain - first);
    const int e = scale_exponent(largest_magnitude(x + first, count), E4M3_LARGEST, E4M3_FLOOR);
    scales[first / ENTRY_BLOCK] = static_cast<uint8_t>(e);
    const v16 inverse = splat(1.0f / from_e8m0(e));
    for (int64_t i = 0; i < count; i += LANES) {
      const int64_t some = std::min<int64_t>(LANES, count - i);
      const v16 rounded = round_e4m3(load_part(x + first + i, some) * inverse);
      for (int64_t l = 0; l < some; ++l) row[first + i + l] = encode_e4m3(rounded[l]);
    }
  }
  for (int64_t i = 0; i < r; ++i) {
    const uint16_t value = to_bf16(x[plain + i]);
    std::memcpy(row + plain + 2 * i, &value, 2);
  }
}

// Channels [first, last) of entries, each at its place: x [count, last − first].
inline void unpack_entries(const uint8_t* const* rows, int64_t count, int64_t c, int64_t r,
                           int64_t first, int64_t last, float* x) {
  const int64_t plain = c - r, wide = last - first, scales = plain + 2 * r;
  for (int64_t i = first; i < last;) {
    float* to = x + i - first;
    // as many whole vectors as share a scale, or need none
    const int64_t end = i < plain ? std::min({last, plain, (i / ENTRY_BLOCK + 1) * ENTRY_BLOCK}) : last;
    const int64_t whole = i + (end - i) / LANES * LANES, from = i;
    for (int64_t s = 0; s < count && i < plain; ++s, to += wide) {
      const auto* codes = reinterpret_cast<const int8_t*>(rows[s]);
      const float scale = from_e8m0(rows[s][scales + i / ENTRY_BLOCK]);
      for (int64_t j = from; j < whole; j += LANES) {
        store(to + j - from, decode_e4m3(widen(codes + j), scale));
      }
      for (int64_t j = whole; j < end; ++j) to[j - from] = decode_e4m3(rows[s][j]) * scale;
    }
    for (int64_t s = 0; s < count && i >= plain; ++s, to += wide) {
      const auto* rotary = reinterpret_cast<const uint16_t*>(rows[s] + plain) - plain;
      for (int64_t j = from; j < whole; j += LANES) {
        store(to + j - from, bits<v16>(widen(rotary + j) << 16));
      }
      for (int64_t j = whole; j < end; ++j) {
        uint16_t value;
        std::memcpy(&value, rotary + j, sizeof value);
        to[j - from] = from_bf16(value);
      }
    }
    i = end;
  }
}
inline void unpack_entry(const uint8_t* row, int64_t c, int64_t r, float* x) {
  unpack_entries(&row, 1, c, r, 0, c, x);
}

inline int key_exponent(const float* x, int64_t count) {
  return scale_exponent(largest_magnitude(x, count), E2M1_LARGEST, E2M1_FLOOR);
}
// Rounds x in place to what `pack_key` stores.
inline void round_key(float* x, int64_t ic) {
  for (int64_t first = 0; first < ic; first += KEY_BLOCK) {
    const int64_t count = std::min(KEY_BLOCK, ic - first);
    const float scale = from_e8m0(key_exponent(x + first, count)), inverse = 1.0f / scale;
    for (int64_t i = 0; i < count; i += LANES) {
      const int64_t some = std::min<int64_t>(LANES, count - i);
      const v16 rounded = round_e2m1(load_part(x + first + i, some) * inverse) * scale;
      std::memcpy(x + first + i, &rounded, some * sizeof(float));
    }
  }
}
inline void pack_key(const float* x, int64_t ic, uint8_t* row) {
  for (int64_t first = 0; first < ic; first += KEY_BLOCK) {
    const int64_t count = std::min(KEY_BLOCK, ic - first);
    const int e = key_exponent(x + first, count);
    row[ic / 2 + first / KEY_BLOCK] = static_cast<uint8_t>(e);
    const float inverse = 1.0f / from_e8m0(e);
    for (int64_t i = first; i < first + count; i += 2) {
      row[i / 2] = static_cast<uint8_t>(encode_e2m1(x[i] * inverse) |
                                        encode_e2m1(x[i + 1] * inverse) << 4);
    }
  }
}
inline void unpack_key(const uint8_t* row, int64_t ic, float* x) {
  for (int64_t first = 0; first < ic; first += KEY_BLOCK) {
    const float scale = from_e8m0(row[ic / 2 + first / KEY_BLOCK]);
    const int64_t last = std::min(first + KEY_BLOCK, ic);
    for (int64_t i = first; i < last; i += 2) {
      x[i] = E2M1[row[i / 2] & 15] * scale;
      x[i + 1] = E2M1[row[i / 2] >> 4] * scale;
    }
  }
}

// x · rsqrt(mean(x²) + ε) ⊙ weight (none: 1): n a multiple of 16 or not.
inline void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* y) {
  v16 total = zero();
  for (int64_t i = 0; i < n; i += LANES) {
    const v16 v = load_part(x + i, std::min<int64_t>(LANES, n - i));
    total = fma(v, v, total);
  }
  const float scale = 1.0f / std::sqrt(sum(total) / n + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale * (weight ? weight[i] : 1.0f);
}

// Turns channel pairs (2j, 2j + 1) of x [r] by an angle: cosines and sines [r/2].
inline void rotate(float* x, int64_t r, const float* cosines, const float* sines, bool back) {
  for (int64_t j = 0; j < r / 2; ++j) {
    const float s = back ? -sines[j] : sines[j], a = x[2 * j], b = x[2 * j + 1];
    x[2 * j] = a * cosines[j] - b * s;
    x[2 * j + 1] = a * s + b * cosines[j];
  }
}

inline void phases(int64_t position, const float* frequencies, int64_t r, float* cosines,
                   float* sines) {
  for (int64_t j = 0; j < r / 2; ++j) {
    const float angle = static_cast<float>(position) * frequencies[j];
    cosines[j] = std::cos(angle);
    sines[j] = std::sin(angle);
  }
}

// Orthonormal Hadamard transform in Sylvester order; n is a power of two.
inline void hadamard(float* x, int64_t n) {
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t first = 0; first < n; first += 2 * half) {
      for (int64_t i = first; i < first + half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (int64_t i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace dsv4::DSV4_ISA
