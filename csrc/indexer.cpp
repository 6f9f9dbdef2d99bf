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
                   int64_t ic, const uint8_t* keys, int64_t count, uint16_t* ranks, int64_t stride,
                   Arena& arena) {
    float* key = arena.take<float>(ic);
    for (int64_t s = 0; s < count; ++s) {
      unpack_key(keys + s * key_bytes(ic), ic, key);
      for (int64_t i = 0; i < queries; ++i) {
        if (s >= visible[i]) continue;
        const float* weights = reinterpret_cast<const float*>(prepared + i * bytes(heads, ic));
        const float* q = weights + heads;
        float score = 0;
        for (int64_t h = 0; h < heads; ++h, q += ic) {
          vn parts[LANES / WIDTH] = {};  // one vector of sixteen would live in memory
          for (int64_t c = 0; c < ic; c += LANES) {
            for (int i = 0; i < LANES; i += WIDTH) {
              parts[i / WIDTH] += load_vn(q + c + i) * load_vn(key + c + i);
            }
          }
          v16 total;
          std::memcpy(&total, parts, sizeof total);
          score += weights[h] * std::max(sum(total), 0.0f);
        }
        ranks[i * stride + s] = rank_of(score);
      }
    }
  }
};

#if DSV4_DOT_BYTES

// ---- bytes: chunks of 64 channels, two times sixteen keys in lanes --------------------------------

constexpr int64_t CHUNK = 64, BLOCKS = CHUNK / KEY_BLOCK, QUADS = KEY_BLOCK / 4;
constexpr int64_t KEYS = 2 * LANES;

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
  DSV4_INLINE static void transpose(const uint8_t* keys, int64_t stride, __m512i columns[8]) {
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

  // A block of sixteen keys: codes as bytes 12 + 2 · value in eight quads, and scales.
  struct Sixteen {
    __m512i quads[QUADS];
    __m512 scale;
  };

  // Chunk c of sixteen keys: its first block, and its second, which lies `apart` further.
  __attribute__((noinline)) static void unpack(const uint8_t* keys, int64_t ic, int64_t c, Sixteen* out,
                                 int64_t apart) {
    const int64_t stride = key_bytes(ic);
    __m512i columns[8];
    transpose(keys + c * CHUNK / 2, stride, columns);
    // sixteen codes four times over: of an index six bits count, and the upper two are a neighbour's
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    for (int j = 0; j < 8; ++j) {
      Sixteen& to = out[j < 4 ? 0 : apart];
      to.quads[2 * j % QUADS] = _mm512_permutexvar_epi8(columns[j], table);
      to.quads[2 * j % QUADS + 1] =
          _mm512_permutexvar_epi8(_mm512_srli_epi16(columns[j], 4), table);
    }
    static_assert(BLOCKS == 2);  // the scales of a key are a word
    const uint8_t* at = keys + ic / 2 + c * BLOCKS;
    __m128i low = _mm_setzero_si128(), high = low;
#define DSV4_WORD(k)                                       \
  low = _mm_insert_epi16(low, word(at + (k) * stride), k); \
  high = _mm_insert_epi16(high, word(at + ((k) + 8) * stride), k);
    DSV4_WORD(0) DSV4_WORD(1) DSV4_WORD(2) DSV4_WORD(3)
    DSV4_WORD(4) DSV4_WORD(5) DSV4_WORD(6) DSV4_WORD(7)
#undef DSV4_WORD
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_set_m128i(high, low));
    out[0].scale = scale(_mm512_and_si512(words, _mm512_set1_epi32(255)));
    out[apart].scale = scale(_mm512_srli_epi32(words, 8));
  }

  static int word(const uint8_t* p) {
    uint16_t found;
    std::memcpy(&found, p, sizeof found);
    return found;
  }

  static __m512 scale(__m512i e) {  // 255 stands for NaN
    const __mmask16 is_nan = _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255));
    return _mm512_mask_mov_ps(_mm512_castsi512_ps(_mm512_slli_epi32(e, 23)), is_nan,
                              _mm512_set1_ps(NAN));
  }

  static void rank(const uint8_t* prepared, int64_t queries, const int64_t* visible, int64_t heads,
                   int64_t ic, const uint8_t* keys, int64_t count, uint16_t* ranks, int64_t stride,
                   Arena& arena) {
    const int64_t chunks = ic / CHUNK, row = key_bytes(ic), size = bytes(heads, ic);
    auto* unpacked = arena.take<Sixteen>(chunks * BLOCKS * 2);  // [block, half]
    auto* dots = arena.take<__m512>(heads * 2);
    for (int64_t s = 0; s < count; s += KEYS) {
      const uint8_t* some_keys = keys + s * row;
      if (count - s < KEYS) {  // the last few, with room for all
        uint8_t* last = arena.take<uint8_t>(KEYS * row);
        std::memset(last, 0, KEYS * row);
        std::memcpy(last, some_keys, (count - s) * row);
        some_keys = last;
      }
      for (int64_t c = 0; c < chunks; ++c) {
        unpack(some_keys, ic, c, unpacked + c * BLOCKS * 2, 2);
        unpack(some_keys + LANES * row, ic, c, unpacked + c * BLOCKS * 2 + 1, 2);
      }
      for (int64_t i = 0; i < queries; ++i) {
        const int64_t some = std::min(KEYS, visible[i] - s);
        if (some <= 0) continue;
        score(prepared + i * size, heads, chunks * BLOCKS, unpacked, some, dots,
              ranks + i * stride + s);
      }
    }
  }

  // A block's codes stay in registers while all heads pass; dots is room for [heads, half].
  static void score(const uint8_t* prepared, int64_t heads, int64_t blocks, const Sixteen* keys,
                    int64_t some, __m512* dots, uint16_t* ranks) {
    const auto* weights = reinterpret_cast<const float*>(prepared);
    const auto* query = reinterpret_cast<const Block*>(prepared + heads * sizeof(float));
    for (int64_t b = 0; b < blocks; ++b) {
      const Sixteen first = keys[2 * b], second = keys[2 * b + 1];
      for (int64_t h = 0; h < heads; ++h) {
        const Block& block = query[h * blocks + b];
        __m512i totals[2][2];  // of even and odd quads
        totals[0][0] = totals[1][0] = _mm512_set1_epi32(block.offset);
        totals[0][1] = totals[1][1] = _mm512_setzero_si512();
        for (int j = 0; j < QUADS; ++j) {
          const __m512i quad = _mm512_set1_epi32(block.quads[j]);
          totals[0][j % 2] = _mm512_dpbusd_epi32(totals[0][j % 2], first.quads[j], quad);
          totals[1][j % 2] = _mm512_dpbusd_epi32(totals[1][j % 2], second.quads[j], quad);
        }
        const __m512 factor = _mm512_set1_ps(block.factor);
        for (int half = 0; half < 2; ++half) {
          const __m512 total =
              _mm512_cvtepi32_ps(_mm512_add_epi32(totals[half][0], totals[half][1]));
          const __m512 scale = half == 0 ? first.scale : second.scale;
          __m512& dot = dots[2 * h + half];
          dot = _mm512_fmadd_ps(total, _mm512_mul_ps(scale, factor),
                                b == 0 ? _mm512_setzero_ps() : dot);
        }
      }
    }
    __m512 scores[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t h = 0; h < heads; ++h) {
      for (int half = 0; half < 2; ++half) {  // NaN stays
        scores[half] =
            _mm512_fmadd_ps(_mm512_set1_ps(weights[h]),
                            _mm512_max_ps(_mm512_setzero_ps(), dots[2 * h + half]), scores[half]);
      }
    }
    const __m512i found = _mm512_inserti64x4(_mm512_castsi256_si512(ranks_of(scores[0])),
                                             ranks_of(scores[1]), 1);
    _mm512_mask_storeu_epi16(ranks, static_cast<__mmask32>((1ull << some) - 1), found);
  }

  static __m256i ranks_of(__m512 scores) {
    const u16 u = bits<u16>(round_bf16((v16)scores) + 0.0f) >> 16;
    const u16 ordered = (u & 0x8000u) != 0 ? ~u & 0xFFFFu : u | 0x8000u;
    return _mm512_cvtepi32_epi16((__m512i)ordered);
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
                 int64_t ic, const uint8_t* keys, int64_t count, uint16_t* ranks, int64_t stride,
                 Arena& arena) {
  Scope scope(arena);
#if DSV4_DOT_BYTES
  if (takes_bytes(ic)) {
    return ByteQuery::rank(prepared, queries, visible, heads, ic, keys, count, ranks, stride, arena);
  }
#endif
  FloatQuery::rank(prepared, queries, visible, heads, ic, keys, count, ranks, stride, arena);
}

// ---- the choice ---------------------------------------------------------------------------------

namespace {

typedef uint16_t h32 __attribute__((vector_size(64)));
constexpr int64_t SOME = 32;

inline h32 read(const uint16_t* p) {
  h32 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline bool any(h32 v) {
  uint64_t w[8];
  std::memcpy(w, &v, sizeof w);
  return (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]) != 0;
}

int64_t at_least(const uint16_t* ranks, int64_t count, uint16_t bound) {
  const h32 bounds = h32{} + bound;
  int64_t total = 0, i = 0;
  while (i + SOME <= count) {
    const int64_t last = std::min(count - SOME, i + SOME * 60000);
    h32 counts{};
    for (; i <= last; i += SOME) counts -= (h32)(read(ranks + i) >= bounds);
    for (int64_t l = 0; l < SOME; ++l) total += counts[l];
  }
  for (; i < count; ++i) total += ranks[i] >= bound;
  return total;
}

// The k-th highest: the highest bound that at least k ranks reach, bit by bit.
uint16_t kth_highest(const uint16_t* ranks, int64_t count, int64_t k) {
  uint16_t bound = 0;
  for (int bit = 15; bit >= 0; --bit) {
    const uint16_t tried = static_cast<uint16_t>(bound | 1u << bit);
    if (at_least(ranks, count, tried) >= k) bound = tried;
  }
  return bound;
}

}  // namespace

// k lanes of strips have a rank that reaches the k-th highest of the lanes' highest: so the k-th highest
// rank is no lower, and above it lie few ranks, all in fewer than k lanes.
void top_entries(const uint16_t* ranks, int64_t count, int64_t k, int32_t* chosen, Arena& arena) {
  constexpr int64_t DEEP = 32, STRIP = DEEP * SOME;
  Scope scope(arena);
  const int64_t strips = count / STRIP;
  uint16_t* highest = arena.take<uint16_t>(strips * SOME);
  for (int64_t s = 0; s < strips; ++s) {
    h32 top{};
    for (int64_t i = 0; i < STRIP; i += SOME) {
      const h32 v = read(ranks + s * STRIP + i);
      top = v > top ? v : top;
    }
    std::memcpy(highest + s * SOME, &top, sizeof top);
  }
  const auto reaches = [&](int64_t strip, uint16_t bound) {
    return any((h32)(read(highest + strip * SOME) >= h32{} + bound));
  };

  const uint16_t* few = ranks;  // among these is the k-th highest, or it is `bound`
  int64_t among = count;
  uint16_t bound = 0;
  if (strips * SOME >= k) {
    bound = kth_highest(highest, strips * SOME, k);
    uint16_t* above = arena.take<uint16_t>(DEEP * k + STRIP);
    among = 0;
    const auto gather = [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        above[among] = ranks[i];
        among += ranks[i] > bound;
      }
    };
    for (int64_t s = 0; s < strips && bound < 0xFFFF; ++s) {
      if (!reaches(s, bound + 1)) continue;
      for (int64_t i = s * STRIP; i < (s + 1) * STRIP; i += SOME) {
        if (any((h32)(read(ranks + i) > h32{} + bound))) gather(i, i + SOME);
      }
    }
    gather(strips * STRIP, count);
    few = above;
  }
  int64_t higher = among;
  if (among >= k) {
    bound = kth_highest(few, among, k);
    higher = bound < 0xFFFF ? at_least(few, among, bound + 1) : 0;
  }

  int64_t ties = k - higher, n = k;  // from the most recent back
  const auto take = [&](int64_t first, int64_t last) {
    for (int64_t i = last - 1; i >= first && n > 0; --i) {
      if (ranks[i] > bound || (ranks[i] == bound && ties-- > 0)) {
        chosen[--n] = static_cast<int32_t>(i);
      }
    }
  };
  take(strips * STRIP, count);
  for (int64_t s = strips - 1; s >= 0 && n > 0; --s) {
    if (!reaches(s, bound)) continue;
    for (int64_t i = (s + 1) * STRIP - SOME; i >= s * STRIP && n > 0; i -= SOME) {
      if (any((h32)(read(ranks + i) >= h32{} + bound))) take(i, i + SOME);
    }
  }
}

}  // namespace dsv4::DSV4_ISA
