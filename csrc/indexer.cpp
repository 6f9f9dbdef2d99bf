#include "sparse.h"

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#define DSV4_DOT_BYTES 1
#else
#define DSV4_DOT_BYTES 0
#endif

namespace dsv4::DSV4_ISA {
namespace {

inline uint16_t rank_of(float score) {  // NaN is above infinity
  const uint16_t u = static_cast<uint16_t>(bits<uint32_t>(round_bf16(score) + 0.0f) >> 16);
  return static_cast<uint16_t>(u & 0x8000 ? ~u : u | 0x8000);
}

// ---- floats: any number of channels -------------------------------------------------------------

// A prepared query: weights [heads], q [heads, ic].
struct FloatQuery {
  static int64_t bytes(int64_t heads, int64_t ic) { return (heads + heads * ic) * 4; }

  static void prepare(const float* q, const float* weights, int64_t heads, int64_t ic,
                      uint8_t* prepared) {
    std::memcpy(prepared, weights, heads * sizeof(float));
    std::memcpy(prepared + heads * sizeof(float), q, heads * ic * sizeof(float));
  }

  static void rank(const uint8_t* prepared, int64_t queries, const int64_t* visible, int64_t heads,
                   int64_t ic, const uint8_t* keys, int64_t count, uint16_t* ranks,
                   int64_t stride) {
    std::vector<float> key(ic + LANES);
    for (int64_t s = 0; s < count; ++s) {
      unpack_key(keys + s * key_bytes(ic), ic, key.data());
      for (int64_t i = 0; i < queries; ++i) {
        if (s >= visible[i]) continue;
        const float* weights = reinterpret_cast<const float*>(prepared + i * bytes(heads, ic));
        const float* q = weights + heads;
        float score = 0;
        for (int64_t h = 0; h < heads; ++h, q += ic) {
          v16 total = zero();
          for (int64_t c = 0; c < ic; c += LANES) total = fma(load(q + c), load(&key[c]), total);
          score += weights[h] * std::max(sum(total), 0.0f);
        }
        ranks[i * stride + s] = rank_of(score);
      }
    }
  }
};

#if DSV4_DOT_BYTES

// ---- bytes: chunks of 64 channels, sixteen keys in lanes ----------------------------------------

constexpr int64_t CHUNK = 64, BLOCKS = CHUNK / KEY_BLOCK, QUADS = KEY_BLOCK / 4, KEYS = 16;

// A prepared query holds, for each head: its weight, and for each block of 32 channels its factor
// (scale / 4, since both sides count halves), its offset −12 · Σ codes, and 32 codes of −12 … 12,
// the even channels of each eight before the odd ones.
struct ByteQuery {
  struct Block {
    float factor;
    int32_t offset;
    int32_t quads[QUADS];
  };

  static int64_t bytes(int64_t heads, int64_t ic) {
    return heads * (sizeof(float) + ic / KEY_BLOCK * sizeof(Block));
  }

  static void prepare(const float* q, const float* weights, int64_t heads, int64_t ic,
                      uint8_t* prepared) {
    std::memcpy(prepared, weights, heads * sizeof(float));
    auto* block = reinterpret_cast<Block*>(prepared + heads * sizeof(float));
    for (int64_t first = 0; first < heads * ic; first += KEY_BLOCK, ++block) {
      const float scale = from_e8m0(key_exponent(q + first, KEY_BLOCK));
      int8_t codes[KEY_BLOCK];
      int32_t total = 0;
      for (int64_t i = 0; i < KEY_BLOCK; ++i) {
        const int64_t eight = i / 8 * 8, in = i % 8;
        const int64_t channel = eight + (in < 4 ? 2 * in : 2 * (in - 4) + 1);
        codes[i] = static_cast<int8_t>(std::lrint(q[first + channel] / scale * 2));
        total += codes[i];
      }
      block->factor = scale / 4;
      block->offset = -12 * total;
      std::memcpy(block->quads, codes, sizeof codes);
    }
  }

  // Sixteen keys' dwords of eight codes: column j of their 32 bytes, a key in each lane.
  static void transpose(const uint8_t* keys, int64_t stride, __m512i columns[8]) {
    __m512i r[8], a[8], b[8];
    for (int i = 0; i < 8; ++i) {
      const __m256i low = _mm256_loadu_si256((const __m256i*)(keys + i * stride));
      const __m256i high = _mm256_loadu_si256((const __m256i*)(keys + (i + 8) * stride));
      r[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    for (int i = 0; i < 4; ++i) {
      a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
      a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {  // four rows together: columns 0 | 4, 1 | 5, 2 | 6, 3 | 7
      for (int j = 0; j < 2; ++j) {
        b[4 * i + 2 * j] = _mm512_unpacklo_epi64(a[4 * i + j], a[4 * i + 2 + j]);
        b[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a[4 * i + j], a[4 * i + 2 + j]);
      }
    }
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    for (int j = 0; j < 4; ++j) {
      columns[j] = _mm512_permutex2var_epi64(b[j], first, b[4 + j]);
      columns[4 + j] = _mm512_permutex2var_epi64(b[j], second, b[4 + j]);
    }
  }

  // Codes of sixteen keys as bytes 12 + 2 · value, eight quads a block; and their scales.
  struct Keys {
    __m512i quads[BLOCKS * QUADS];
    __m512 scales[BLOCKS];
  };

  static void unpack(const uint8_t* keys, int64_t ic, int64_t chunk, Keys& out) {
    const int64_t stride = key_bytes(ic);
    __m512i columns[8];
    transpose(keys + chunk * CHUNK / 2, stride, columns);
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m512i nibble = _mm512_set1_epi8(15);
    for (int j = 0; j < 8; ++j) {
      const __m512i even = _mm512_and_si512(columns[j], nibble);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(columns[j], 4), nibble);
      out.quads[2 * j] = _mm512_shuffle_epi8(table, even);
      out.quads[2 * j + 1] = _mm512_shuffle_epi8(table, odd);
    }
    for (int64_t b = 0; b < BLOCKS; ++b) {
      uint8_t exponents[KEYS];
      for (int64_t k = 0; k < KEYS; ++k) {
        exponents[k] = keys[k * stride + ic / 2 + chunk * BLOCKS + b];
      }
      const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)exponents));
      const __mmask16 is_nan = _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255));
      out.scales[b] = _mm512_mask_mov_ps(_mm512_castsi512_ps(_mm512_slli_epi32(e, 23)), is_nan,
                                         _mm512_set1_ps(NAN));
    }
  }

  static void rank(const uint8_t* prepared, int64_t queries, const int64_t* visible, int64_t heads,
                   int64_t ic, const uint8_t* keys, int64_t count, uint16_t* ranks,
                   int64_t stride) {
    const int64_t chunks = ic / CHUNK, row = key_bytes(ic), size = bytes(heads, ic);
    std::vector<uint8_t> last;  // the last few keys, with room for sixteen
    std::vector<Keys> unpacked(chunks);
    for (int64_t s = 0; s < count; s += KEYS) {
      const uint8_t* sixteen = keys + s * row;
      if (count - s < KEYS) {
        last.assign(KEYS * row + 64, 0);
        std::memcpy(last.data(), sixteen, (count - s) * row);
        sixteen = last.data();
      }
      for (int64_t c = 0; c < chunks; ++c) unpack(sixteen, ic, c, unpacked[c]);
      for (int64_t i = 0; i < queries; ++i) {
        const int64_t some = std::min(KEYS, visible[i] - s);
        if (some <= 0) continue;
        score(prepared + i * size, heads, chunks, unpacked.data(), some, ranks + i * stride + s);
      }
    }
  }

  static void score(const uint8_t* prepared, int64_t heads, int64_t chunks, const Keys* keys,
                    int64_t some, uint16_t* ranks) {
    const auto* weights = reinterpret_cast<const float*>(prepared);
    const auto* block = reinterpret_cast<const Block*>(prepared + heads * sizeof(float));
    __m512 scores = _mm512_setzero_ps();
    for (int64_t h = 0; h < heads; ++h) {
      __m512 dot = _mm512_setzero_ps();
      for (int64_t c = 0; c < chunks; ++c) {
        for (int64_t b = 0; b < BLOCKS; ++b, ++block) {
          __m512i total = _mm512_set1_epi32(block->offset);
          for (int j = 0; j < QUADS; ++j) {
            total = _mm512_dpbusd_epi32(total, keys[c].quads[b * QUADS + j],
                                        _mm512_set1_epi32(block->quads[j]));
          }
          const __m512 factor = _mm512_mul_ps(keys[c].scales[b], _mm512_set1_ps(block->factor));
          dot = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), factor, dot);
        }
      }
      scores = _mm512_fmadd_ps(_mm512_set1_ps(weights[h]),
                               _mm512_max_ps(_mm512_setzero_ps(), dot), scores);  // dot: NaN stays
    }
    const u16 u = bits<u16>(round_bf16((v16)scores) + 0.0f) >> 16;
    const u16 ordered = (u & 0x8000u) != 0 ? ~u & 0xFFFFu : u | 0x8000u;
    _mm256_mask_storeu_epi16(ranks, (__mmask16)((1u << some) - 1),
                             _mm512_cvtepi32_epi16((__m512i)ordered));
  }
};

bool takes_bytes(int64_t ic) { return ic % CHUNK == 0; }

#endif

}  // namespace

int64_t index_query_bytes(int64_t heads, int64_t ic) {
#if DSV4_DOT_BYTES
  if (takes_bytes(ic)) return ByteQuery::bytes(heads, ic);
#endif
  return FloatQuery::bytes(heads, ic);
}

void prepare_index_query(const float* q, const float* weights, int64_t heads, int64_t ic,
                         uint8_t* prepared) {
#if DSV4_DOT_BYTES
  if (takes_bytes(ic)) return ByteQuery::prepare(q, weights, heads, ic, prepared);
#endif
  FloatQuery::prepare(q, weights, heads, ic, prepared);
}

void index_ranks(const uint8_t* prepared, int64_t queries, const int64_t* visible, int64_t heads,
                 int64_t ic, const uint8_t* keys, int64_t count, uint16_t* ranks, int64_t stride) {
#if DSV4_DOT_BYTES
  if (takes_bytes(ic)) {
    return ByteQuery::rank(prepared, queries, visible, heads, ic, keys, count, ranks, stride);
  }
#endif
  FloatQuery::rank(prepared, queries, visible, heads, ic, keys, count, ranks, stride);
}

void top_entries(const uint16_t* ranks, int64_t count, int64_t k, int32_t* chosen) {
  typedef uint16_t h32 __attribute__((vector_size(64)));
  constexpr int64_t SOME = 32;
  const int64_t whole = count / SOME * SOME;
  const auto read = [&](int64_t i) {
    h32 v;
    std::memcpy(&v, ranks + i, sizeof v);
    return v;
  };
  const auto at_least = [&](uint16_t bound) {
    int64_t total = 0;
    const h32 bounds = h32{} + bound;
    for (int64_t first = 0; first < whole;) {
      const int64_t last = std::min<int64_t>(whole, first + SOME * 60000);
      h32 counts{};
      for (; first < last; first += SOME) counts -= (h32)(read(first) >= bounds);
      for (int64_t l = 0; l < SOME; ++l) total += counts[l];
    }
    for (int64_t i = whole; i < count; ++i) total += ranks[i] >= bound;
    return total;
  };
  // the highest bound that at least k ranks reach, bit by bit
  uint16_t bound = 0;
  for (int bit = 15; bit >= 0; --bit) {
    const uint16_t tried = static_cast<uint16_t>(bound | 1u << bit);
    if (at_least(tried) >= k) bound = tried;
  }
  int64_t skip = at_least(bound) - k;  // of those at the bound, the earliest are left out
  int64_t n = 0;
  const auto take = [&](int64_t i) {
    if (ranks[i] > bound || (ranks[i] == bound && skip-- <= 0)) {
      chosen[n++] = static_cast<int32_t>(i);
    }
  };
  const h32 bounds = h32{} + bound;
  for (int64_t i = 0; i < whole; i += SOME) {
    const h32 reach = (h32)(read(i) >= bounds);
    uint64_t words[8];
    std::memcpy(words, &reach, sizeof words);
    if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7])) {
      for (int64_t l = i; l < i + SOME; ++l) take(l);
    }
  }
  for (int64_t i = whole; i < count; ++i) take(i);
}

}  // namespace dsv4::DSV4_ISA
