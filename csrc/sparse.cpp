#include "sparse.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int KEYS = 8;       // keys of a score tile
constexpr int CHANNELS = 16;  // channels of a value tile

template <int L>
struct Heads;
template <>
struct Heads<16> {
  using Vector = v16;
};
template <>
struct Heads<8> {
  using Vector = v8;
};

template <class V>
inline V read(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// One group of up to L heads: q [heads, c], o [heads, c].
template <int L>
void attend_group(const float* q, int heads, int64_t c, const float* const* keys, int64_t count,
                  const float* sink, bool low, float* o, Arena& arena) {
  using V = typename Heads<L>::Vector;
  Scope scope(arena);
  float* turned = arena.take<float>(c * L);  // q with heads in lanes
  std::memset(turned, 0, c * L * sizeof(float));
  for (int h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < c; ++i) turned[i * L + h] = q[h * c + i];
  }
  float* scores = arena.take<float>((count + 1) * LANES);  // [keys, L]
  const float scale = 1.0f / std::sqrt(static_cast<float>(c));
  float base[LANES] = {};  // sinks; the shift is the highest score, sink apart
  std::memcpy(base, sink, heads * sizeof(float));
  V top = V{} - INFINITY;
  for (int64_t s = 0; s < count; s += KEYS) {
    const float* k[KEYS];
    for (int i = 0; i < KEYS; ++i) k[i] = keys[std::min(s + i, count - 1)];
    V sums[KEYS] = {};
    for (int64_t ch = 0; ch < c; ++ch) {
      const V a = read<V>(turned + ch * L);
      for (int i = 0; i < KEYS; ++i) sums[i] += a * k[i][ch];
    }
    for (int i = 0; i < KEYS && s + i < count; ++i) {
      const V score = sums[i] * scale;
      top = top > score ? top : score;
      std::memcpy(scores + (s + i) * L, &score, sizeof score);
    }
  }
  float tops[LANES];
  for (int i = 0; i < LANES; ++i) tops[i] = top[i % L];
  const v16 shift = load(tops);
  V denominator = read<V>([&] {
    store(base, exponential(load(base) - shift));
    return base;
  }());
  const int64_t places = count * L;
  for (int64_t i = 0; i < places; i += LANES) {
    store(scores + i, exponential(load(scores + i) - shift));
  }
  for (int64_t s = 0; s < count; ++s) denominator += read<V>(scores + s * L);
  if (low) store_precision(scores, places, true);
  const V inverse = 1.0f / denominator;
  for (int64_t first = 0; first < c; first += CHANNELS) {
    V sums[CHANNELS] = {};
    for (int64_t s = 0; s < count; ++s) {
      const V p = read<V>(scores + s * L);
      const float* v = keys[s] + first;
      for (int j = 0; j < CHANNELS; ++j) sums[j] += p * v[j];
    }
    for (int j = 0; j < CHANNELS; ++j) {
      const V out = sums[j] * inverse;
      for (int h = 0; h < heads; ++h) o[h * c + first + j] = out[h];
    }
  }
}

}  // namespace

void attend(const float* q, int64_t heads, int64_t c, const float* const* keys, int64_t count,
            const float* sink, bool low, float* o, Arena& arena) {
  for (int64_t h = 0; h < heads;) {
    if (heads - h > 8) {
      const int some = static_cast<int>(std::min<int64_t>(16, heads - h));
      attend_group<16>(q + h * c, some, c, keys, count, sink + h, low, o + h * c, arena);
      h += some;
    } else {
      const int some = static_cast<int>(heads - h);
      attend_group<8>(q + h * c, some, c, keys, count, sink + h, low, o + h * c, arena);
      h += some;
    }
  }
}

}  // namespace dsv4::DSV4_ISA
