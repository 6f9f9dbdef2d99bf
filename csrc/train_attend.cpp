// Attention of training: no [queries × keys] tensor is kept; the backward makes the weights again.
//
// A block of queries and all heads are the rows of matrix products with the keys that any of them sees.
// S = q kᵀ / √c,  P = exp(S − l),  o = P k;  dP = g kᵀ,  dS = P (dP − Σ P dP) / √c
// dq = dS k,  dk = dSᵀ q + Pᵀ g,  dsink = −exp(sink − l) Σ P dP
#include "small_product.h"
#include "training_isa.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int64_t COLUMNS = 128;  // queries times heads of a block, about
constexpr int64_t STRIPES = 16;   // of a sequence's queries; each has slopes of its own for the keys

int64_t padded(int64_t n) { return (n + 31) / 32 * 32; }

// The keys of one sequence, as they lie and turned: [c, count], rows of `stride`.
struct Keys {
  const float *rows = nullptr, *turned = nullptr;
  int64_t stride = 0;
};

// What one block of queries sees: a range of window rows, then a range of entries, or for each query
// entries of its own choice.
struct Sight {
  int64_t first = 0, queries = 0;
  int64_t low = 0, window = 0;        // window rows [low, low + window)
  int64_t entry = 0, entries = 0;     // entries [entry, entry + entries)
  bool picks = false;
  int64_t places() const { return window + entries; }  // picked ones: `chosen` places
};

class Block {
 public:
  Block(const SparseAttention& a, int64_t b, const Keys& window, const Keys& entries, Arena& arena)
      : a_(a), b_(b), window_(window), entries_(entries), arena_(arena),
        scale_(1.0f / std::sqrt(static_cast<float>(a.scaled))) {}

  void look(int64_t first, int64_t queries, bool ranged) {
    const auto bounds = [&](const int32_t* of, int64_t& low, int64_t& count) {
      int64_t high = 0;
      low = INT64_MAX;
      for (int64_t t = first; t < first + queries; ++t) {
        const int32_t* range = of + (b_ * a_.n + t) * 2;
        if (range[0] >= range[1]) continue;
        low = std::min<int64_t>(low, range[0]);
        high = std::max<int64_t>(high, range[1]);
      }
      count = std::max<int64_t>(0, high - low);
      if (count == 0) low = 0;
    };
    s_ = {first, queries};
    bounds(a_.seen, s_.low, s_.window);
    if (a_.entries > 0) bounds(a_.visible, s_.entry, s_.entries);
    if (a_.chosen > 0 && !(ranged && few(first, queries))) {
      s_.picks = true;
      s_.entries = a_.chosen;
    }
    stride_ = padded(s_.places()) + 32;
    rows_ = queries * a_.heads;
  }

  // S of all rows [rows, stride], scaled, −∞ where a query does not see.
  float* scores() {
    float* found = against(a_.q);
    each_row(found, [&](float* row, int64_t, int64_t) {
      for (int64_t i = 0; i < s_.places(); i += LANES) store(row + i, load(row + i) * scale_);
    });
    hide(found, -INFINITY);
    return found;
  }

  // x kᵀ of the block's rows of x [b, n, heads, c].
  float* against(const float* x) {
    float* out = arena_.take<float>(rows_ * stride_);
    const Lines left{{rows_of(x), a_.c}};
    const auto to = [&](int64_t at) {
      return [=, this](int64_t i) { return out + i * stride_ + at; };
    };
    small_product(rows_, padded(s_.window), a_.c, left,
                  [&](int64_t p) { return window_.turned + p * window_.stride + s_.low; }, to(0),
                  false);
    if (s_.picks) {
      each_query([&](int64_t t, const float* const* keys, int64_t count) {
        Scope scope(arena_);
        const int64_t wide = padded(a_.heads);
        float* turned = arena_.take<float>(a_.c * wide);
        const float* rows = rows_of(x) + t * a_.heads * a_.c;
        for (int64_t h = 0; h < wide; ++h) {
          for (int64_t i = 0; i < a_.c; ++i) turned[i * wide + h] = h < a_.heads ? rows[h * a_.c + i] : 0;
        }
        float* found = arena_.take<float>(count * wide);
        small_product(count, wide, a_.c, Gathered{{keys}},
                      [&](int64_t p) { return turned + p * wide; },
                      [&](int64_t i) { return found + i * wide; }, false);
        for (int64_t h = 0; h < a_.heads; ++h) {
          float* row = out + (t * a_.heads + h) * stride_ + s_.window;
          for (int64_t k = 0; k < count; ++k) row[k] = found[k * wide + h];
        }
      });
    } else if (s_.entries > 0) {
      small_product(rows_, padded(s_.entries), a_.c, left,
                    [&](int64_t p) { return entries_.turned + p * entries_.stride + s_.entry; },
                    to(s_.window), false);
    }
    return out;
  }

  // o = or += w · keys, for w [rows, stride].
  void weigh(const float* w, float* o) {
    const auto to = [&](int64_t i) { return rows_of(o) + i * a_.c; };
    small_product(rows_, a_.c, s_.window, Lines{{w, stride_}},
                  [&](int64_t p) { return window_.rows + (s_.low + p) * a_.c; }, to, false);
    if (s_.picks) {
      each_query([&](int64_t t, const float* const* keys, int64_t count) {
        const int64_t first = t * a_.heads;
        small_product(a_.heads, a_.c, count, Lines{{w + first * stride_ + s_.window, stride_}},
                      [&](int64_t p) { return keys[p]; }, [&](int64_t i) { return to(first + i); },
                      true);
      });
    } else if (s_.entries > 0) {
      small_product(rows_, a_.c, s_.entries, Lines{{w + s_.window, stride_}},
                    [&](int64_t p) { return entries_.rows + (s_.entry + p) * a_.c; }, to, true);
    }
  }

  // Slopes of keys: += wᵀ · x, x [b, n, heads, c]; window rows from `low` on, entries from 0.
  void spread(const float* w, const float* x, float* to_window, float* to_entries) {
    const float* rows = rows_of(x);
    small_product(s_.window, a_.c, rows_, Upright{{w, stride_}},
                  [&](int64_t p) { return rows + p * a_.c; },
                  [&](int64_t i) { return to_window + i * a_.c; }, true);
    if (s_.picks) {
      each_query([&](int64_t t, const float* const* keys, int64_t count) {
        const int64_t first = t * a_.heads;
        small_product(count, a_.c, a_.heads, Upright{{w + first * stride_ + s_.window, stride_}},
                      [&](int64_t p) { return rows + (first + p) * a_.c; },
                      [&](int64_t i) { return to_entries + (keys[i] - entries_.rows); }, true);
      });
    } else if (s_.entries > 0) {
      small_product(s_.entries, a_.c, rows_, Upright{{w + s_.window, stride_}},
                    [&](int64_t p) { return rows + p * a_.c; },
                    [&](int64_t i) { return to_entries + (s_.entry + i) * a_.c; }, true);
    }
  }

  // Sets places that a query does not see.
  void hide(float* w, float value) {
    for (int64_t t = 0; t < s_.queries; ++t) {
      int64_t edges[4];  // [0, 1) and [2, 3) are seen
      const int64_t at = b_ * a_.n + s_.first + t;
      edges[0] = a_.seen[2 * at] - s_.low;
      edges[1] = std::max<int64_t>(edges[0], a_.seen[2 * at + 1] - s_.low);
      edges[2] = s_.window + (s_.picks || s_.entries == 0 ? 0 : a_.visible[2 * at] - s_.entry);
      edges[3] = s_.picks ? s_.window + picked(t) : s_.entries == 0 ? s_.window
                 : std::max<int64_t>(edges[2], s_.window + a_.visible[2 * at + 1] - s_.entry);
      if (edges[0] >= edges[1]) edges[0] = edges[1] = 0;
      if (edges[2] >= edges[3]) edges[2] = edges[3] = s_.places();
      for (int64_t h = 0; h < a_.heads; ++h) {
        float* row = w + (t * a_.heads + h) * stride_;
        std::fill(row, row + edges[0], value);
        std::fill(row + edges[1], row + edges[2], value);
        std::fill(row + edges[3], row + stride_, value);
      }
    }
  }

  template <class F>
  void each_row(float* w, F&& f) {
    for (int64_t i = 0; i < rows_; ++i) f(w + i * stride_, i, i % a_.heads);
  }

  // f(query of the block, its picked entries, how many).
  template <class F>
  void each_query(F&& f) {
    Scope scope(arena_);
    const float** keys = arena_.take<const float*>(a_.chosen);
    for (int64_t t = 0; t < s_.queries; ++t) {
      const int64_t count = picked(t);
      const int32_t* entry = a_.picked + (b_ * a_.n + s_.first + t) * a_.chosen;
      for (int64_t k = 0; k < count; ++k) keys[k] = entries_.rows + entry[k] * a_.c;
      f(t, keys, count);
    }
  }

  template <class T>
  T* rows_of(T* x) const { return x + (b_ * a_.n + s_.first) * a_.heads * a_.c; }
  template <class T>
  T* heads_of(T* x) const { return x + (b_ * a_.n + s_.first) * a_.heads; }

  int64_t stride() const { return stride_; }
  const Sight& sight() const { return s_; }
  float scale() const { return scale_; }

 private:
  // How many entries query t of the block picked: they come before what is none.
  int64_t picked(int64_t t) const {
    const int32_t* entry = a_.picked + (b_ * a_.n + s_.first + t) * a_.chosen;
    return std::find_if(entry, entry + a_.chosen, [](int32_t e) { return e < 0; }) - entry;
  }
  // Whether every query of the block sees no more entries than it may pick.
  bool few(int64_t first, int64_t queries) const {
    for (int64_t t = first; t < first + queries; ++t) {
      const int32_t* range = a_.visible + (b_ * a_.n + t) * 2;
      if (range[1] - range[0] > a_.chosen) return false;
    }
    return true;
  }

  const SparseAttention& a_;
  int64_t b_;
  const Keys &window_, &entries_;
  Arena& arena_;
  float scale_;
  Sight s_;
  int64_t stride_ = 0, rows_ = 0;
};

// rows [count, c] → [c, padded(count) + 32], in `turned`.
Keys turn(Pool& pool, const float* rows, int64_t count, int64_t c, float* turned) {
  const int64_t stride = padded(count) + 32;
  pool.run((count + LANES - 1) / LANES, 4, [&](int64_t group, int) {
    const int64_t last = std::min(count, (group + 1) * LANES);
    for (int64_t i = 0; i < c; ++i) {
      for (int64_t k = group * LANES; k < last; ++k) turned[i * stride + k] = rows[k * c + i];
    }
  });
  return {rows, turned, stride};
}

// Queries in blocks, blocks in stripes of one sequence.
struct Plan {
  explicit Plan(const SparseAttention& a)
      : queries(std::max<int64_t>(1, COLUMNS / a.heads)), blocks((a.n + queries - 1) / queries),
        stripes(std::min(STRIPES, blocks)) {}
  int64_t queries, blocks, stripes;
  template <class F>
  void each(const SparseAttention& a, int64_t stripe, F&& f) const {
    for (int64_t i = stripe * blocks / stripes; i < (stripe + 1) * blocks / stripes; ++i) {
      f(i * queries, std::min(queries, a.n - i * queries));
    }
  }
};

std::vector<std::pair<Keys, Keys>> all_keys(Pool& pool, const SparseAttention& a, Arena& arena) {
  std::vector<std::pair<Keys, Keys>> found;
  for (int64_t b = 0; b < a.batch; ++b) {
    const auto one = [&](const float* rows, int64_t count) {
      return count == 0 ? Keys{} : turn(pool, rows + b * count * a.c, count, a.c,
                                        arena.take<float>(a.c * (padded(count) + 32)));
    };
    found.emplace_back(one(a.window, a.keys), one(a.stored, a.entries));
  }
  return found;
}

}  // namespace

void train_attend(const SparseAttention& a, float* o, float* levels, float* mass) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  Scope scope(arena);
  const Plan plan(a);
  const auto keys = all_keys(pool, a, arena);
  const int64_t places = a.chosen > 0 ? a.chosen : a.entries;  // of a row of `mass`
  pool.run(a.batch * plan.stripes, 1, [&](int64_t task, int) {
    const int64_t b = task / plan.stripes;
    Arena& mine = worker_arena();
    Scope scope(mine);
    Block block(a, b, keys[b].first, keys[b].second, mine);
    plan.each(a, task % plan.stripes, [&](int64_t first, int64_t queries) {
      Scope scope(mine);
      block.look(first, queries, mass == nullptr);
      const Sight& s = block.sight();
      float *w = block.scores(), *level = block.heads_of(levels);
      block.each_row(w, [&](float* row, int64_t i, int64_t h) {
        v16 top = splat(a.sink[h]);
        for (int64_t p = 0; p < s.places(); p += LANES) top = maximum(top, load(row + p));
        float highest = a.sink[h];
        for (int l = 0; l < LANES; ++l) highest = std::max(highest, top[l]);
        v16 total = zero();
        for (int64_t p = 0; p < s.places(); p += LANES) {
          const v16 e = exponential(load(row + p) - highest);
          store(row + p, e);
          total += e;
        }
        const float all = sum(total) + std::exp(a.sink[h] - highest);
        for (int64_t p = 0; p < s.places(); p += LANES) store(row + p, load(row + p) / all);
        level[i] = highest + std::log(all);
      });
      block.hide(w, 0.0f);
      block.weigh(w, o);
      if (mass == nullptr || places == 0) return;
      for (int64_t t = 0; t < queries; ++t) {
        float* to = mass + (b * a.n + first + t) * places + (s.picks ? 0 : s.entry);
        for (int64_t h = 0; h < a.heads; ++h) {
          const float* row = w + (t * a.heads + h) * block.stride() + s.window;
          for (int64_t e = 0; e < s.entries; ++e) to[e] += row[e];
        }
      }
    });
  });
}

void train_attend_back(const SparseAttention& a, const float* levels, const float* slope,
                       float* to_q, float* to_window, float* to_entries, float* to_sink) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  Scope scope(arena);
  const Plan plan(a);
  const auto keys = all_keys(pool, a, arena);
  struct Stripe {
    int64_t low = 0, count = 0;
    float *window = nullptr, *entries = nullptr, *sink = nullptr;
  };
  std::vector<Stripe> stripes(a.batch * plan.stripes);
  for (size_t task = 0; task < stripes.size(); ++task) {
    Stripe& mine = stripes[task];
    int64_t high = 0;
    mine.low = a.keys;
    plan.each(a, task % plan.stripes, [&](int64_t first, int64_t queries) {
      for (int64_t t = first; t < first + queries; ++t) {
        const int32_t* range = a.seen + (task / plan.stripes * a.n + t) * 2;
        mine.low = std::min<int64_t>(mine.low, range[0]);
        high = std::max<int64_t>(high, range[1]);
      }
    });
    mine.count = std::max<int64_t>(0, high - mine.low);
    mine.window = arena.take<float>(mine.count * a.c);
    mine.entries = arena.take<float>(a.entries * a.c);
    mine.sink = arena.take<float>(a.heads);
  }
  pool.run(a.batch * plan.stripes, 1, [&](int64_t task, int) {
    const int64_t b = task / plan.stripes;
    const Stripe& to = stripes[task];
    std::memset(to.window, 0, to.count * a.c * sizeof(float));
    std::memset(to.entries, 0, a.entries * a.c * sizeof(float));
    std::memset(to.sink, 0, a.heads * sizeof(float));
    Arena& mine = worker_arena();
    Scope scope(mine);
    Block block(a, b, keys[b].first, keys[b].second, mine);
    plan.each(a, task % plan.stripes, [&](int64_t first, int64_t queries) {
      Scope scope(mine);
      block.look(first, queries, true);
      const Sight& s = block.sight();
      float *w = block.scores(), *dw = block.against(slope);
      const float* level = block.heads_of(levels);
      block.hide(dw, 0.0f);
      block.each_row(w, [&](float* row, int64_t i, int64_t) {
        for (int64_t p = 0; p < s.places(); p += LANES) {
          store(row + p, exponential(load(row + p) - level[i]));
        }
      });
      block.hide(w, 0.0f);
      block.each_row(dw, [&](float* row, int64_t i, int64_t h) {
        const float* weights = w + i * block.stride();
        v16 along = zero();
        for (int64_t p = 0; p < s.places(); p += LANES) along = fma(load(weights + p), load(row + p), along);
        const float all = sum(along);
        for (int64_t p = 0; p < s.places(); p += LANES) {
          store(row + p, load(weights + p) * (load(row + p) - all) * block.scale());
        }
        to.sink[h] -= std::exp(a.sink[h] - level[i]) * all;
      });
      block.weigh(dw, to_q);
      float* window = to.window + (s.low - to.low) * a.c;
      block.spread(dw, a.q, window, to.entries);
      block.spread(w, slope, window, to.entries);
    });
  });
  // stripes are added in order
  std::memset(to_sink, 0, a.heads * sizeof(float));
  for (const Stripe& stripe : stripes) {
    for (int64_t h = 0; h < a.heads; ++h) to_sink[h] += stripe.sink[h];
  }
  const auto add = [&](float* to, int64_t rows, auto&& part) {
    pool.run(a.batch * rows, 64, [&](int64_t row, int) {
      float* out = to + row * a.c;
      std::memset(out, 0, a.c * sizeof(float));
      for (int64_t i = 0; i < plan.stripes; ++i) {
        const float* from = part(stripes[row / rows * plan.stripes + i], row % rows);
        if (from == nullptr) continue;
        for (int64_t j = 0; j < a.c; j += LANES) store(out + j, load(out + j) + load(from + j));
      }
    });
  };
  add(to_window, a.keys, [&](const Stripe& s, int64_t row) -> const float* {
    const bool there = row >= s.low && row < s.low + s.count;
    return there ? s.window + (row - s.low) * a.c : nullptr;
  });
  add(to_entries, a.entries,
      [&](const Stripe& s, int64_t row) -> const float* { return s.entries + row * a.c; });
}

}  // namespace dsv4::DSV4_ISA
