#include "sparse.h"

#include <type_traits>

namespace dsv4::DSV4_ISA {
namespace {

constexpr int KEYS = 8;       // keys of a score tile
constexpr int CHANNELS = 16;  // channels of a value tile
constexpr int64_t RUN = 64;   // keys that a thread scores at a time

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

// A group of up to L heads, a head in each lane. Steps may be shared out: a score belongs to one
// key, a sum of values to one channel, and neither depends on who works it out.
template <int L>
class Group {
  using V = typename Heads<L>::Vector;

 public:
  Group(const float* q, int heads, int64_t c, const float* const* keys, int64_t count, Arena& arena)
      : heads_(heads), c_(c), keys_(keys), count_(count) {
    turned_ = arena.take<float>(c * L);
    scores_ = arena.take<float>((count + 1) * LANES);
    std::memset(turned_, 0, c * L * sizeof(float));
    for (int h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < c; ++i) turned_[i * L + h] = q[h * c + i];
    }
  }

  // q · k_s · c^-0.5 of keys [first, last).
  void score(int64_t first, int64_t last) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(c_));
    for (int64_t s = first; s < last; s += KEYS) {
      const float* k[KEYS];
      for (int i = 0; i < KEYS; ++i) k[i] = keys_[std::min(s + i, last - 1)];
      V sums[KEYS] = {};
      for (int64_t ch = 0; ch < c_; ++ch) {
        const V a = read<V>(turned_ + ch * L);
        for (int i = 0; i < KEYS; ++i) sums[i] += a * k[i][ch];
      }
      for (int i = 0; i < KEYS && s + i < last; ++i) {
        const V score = sums[i] * scale;
        std::memcpy(scores_ + (s + i) * L, &score, sizeof score);
      }
    }
  }

  // Scores → exponentials over the highest score, sink apart; the denominator has the sink's too.
  void soften(const float* sink, bool low) {
    V top = V{} - INFINITY;
    for (int64_t s = 0; s < count_; ++s) {
      const V score = read<V>(scores_ + s * L);
      top = top > score ? top : score;
    }
    float tops[LANES], base[LANES] = {};
    for (int i = 0; i < LANES; ++i) tops[i] = top[i % L];
    std::memcpy(base, sink, heads_ * sizeof(float));
    const v16 shift = load(tops);
    store(base, exponential(load(base) - shift));
    for (int h = 0; h < heads_; ++h) {  // beyond what `exponential` takes, as the plain operators
      if (sink[h] == INFINITY) base[h] = low ? INFINITY : NAN;
    }
    V denominator = read<V>(base);
    const int64_t places = count_ * L;
    for (int64_t i = 0; i < places; i += LANES) {
      store(scores_ + i, exponential(load(scores_ + i) - shift));
    }
    for (int64_t s = 0; s < count_; ++s) denominator += read<V>(scores_ + s * L);
    store_precision(scores_, places, low);
    inverse_ = 1.0f / denominator;
  }

  // Channels [first, last) of o [heads, c], whole tiles.
  void weigh(int64_t first, int64_t last, float* o) const {
    for (; first < last; first += CHANNELS) {
      V sums[CHANNELS] = {};
      for (int64_t s = 0; s < count_; ++s) {
        const V p = read<V>(scores_ + s * L);
        const float* v = keys_[s] + first;
        for (int j = 0; j < CHANNELS; ++j) sums[j] += p * v[j];
      }
      for (int j = 0; j < CHANNELS; ++j) {
        const V out = sums[j] * inverse_;
        for (int h = 0; h < heads_; ++h) o[h * c_ + first + j] = out[h];
      }
    }
  }

 private:
  int heads_;
  int64_t c_;
  const float* const* keys_;
  int64_t count_;
  float *turned_, *scores_;
  V inverse_;
};

template <int L>
void attend_group(const float* q, int heads, int64_t c, const float* const* keys, int64_t count,
                  const float* sink, bool low, float* o, Arena& arena) {
  Scope scope(arena);
  Group<L> group(q, heads, c, keys, count, arena);
  group.score(0, count);
  group.soften(sink, low);
  group.weigh(0, c, o);
}

template <int L>
void attend_group_together(Pool& pool, const float* q, int heads, int64_t c,
                           const float* const* keys, int64_t count, const float* sink, bool low,
                           float* o, Arena& arena) {
  Scope scope(arena);
  Group<L> group(q, heads, c, keys, count, arena);
  const int64_t runs = (count + RUN - 1) / RUN;
  pool.run(runs, 1, [&](int64_t run, int) {
    group.score(run * RUN, std::min(count, (run + 1) * RUN));
  });
  group.soften(sink, low);
  pool.run(c / CHANNELS, 2, [&](int64_t tile, int) {
    group.weigh(tile * CHANNELS, (tile + 1) * CHANNELS, o);
  });
}

// Calls f(L, first head, heads) for groups of at most sixteen heads.
template <class F>
void each_group(int64_t heads, F&& f) {
  for (int64_t h = 0; h < heads; h += 16) {
    const int some = static_cast<int>(std::min<int64_t>(16, heads - h));
    if (some > 8) {
      f(std::integral_constant<int, 16>{}, h, some);
    } else {
      f(std::integral_constant<int, 8>{}, h, some);
    }
  }
}

}  // namespace

void attend(const float* q, int64_t heads, int64_t c, const float* const* keys, int64_t count,
            const float* sink, bool low, float* o, Arena& arena) {
  each_group(heads, [&](auto lanes, int64_t h, int some) {
    attend_group<lanes()>(q + h * c, some, c, keys, count, sink + h, low, o + h * c, arena);
  });
}

void attend_together(Pool& pool, const float* q, int64_t heads, int64_t c,
                     const float* const* keys, int64_t count, const float* sink, bool low,
                     float* o, Arena& arena) {
  each_group(heads, [&](auto lanes, int64_t h, int some) {
    attend_group_together<lanes()>(pool, q + h * c, some, c, keys, count, sink + h, low,
                                   o + h * c, arena);
  });
}

}  // namespace dsv4::DSV4_ISA
