#include "sparse.h"

#include <utility>

namespace dsv4::DSV4_ISA {
namespace {

constexpr int64_t TILE = 2 * LANES;  // keys that are scored side by side
constexpr int HEADS = 4;             // heads that share what was loaded
constexpr int64_t RUN = 2;           // tiles that a thread scores at a time

// Lanes of a and b whose number has bit D set or not: a square of 2 · D lanes is turned.
template <int D, int... I>
DSV4_INLINE inline void turn(vn& a, vn& b, std::integer_sequence<int, I...>) {
  const vn low = __builtin_shufflevector(a, b, (I & D ? WIDTH + I - D : I)...);
  b = __builtin_shufflevector(a, b, (I & D ? WIDTH + I : I + D)...);
  a = low;
}

// Rows → columns: lane j of row i becomes lane i of row j.
template <int D = 1>
DSV4_INLINE inline void transpose(vn r[WIDTH]) {
  for (int i = 0; i < WIDTH; ++i) {
    if (!(i & D)) turn<D>(r[i], r[i + D], std::make_integer_sequence<int, WIDTH>{});
  }
  if constexpr (2 * D < WIDTH) transpose<2 * D>(r);
}

// Queries side by side. Of each there is a sheet [heads, stride]: scores, then probabilities; a column
// for each row of the window that any of them sees, then one for each entry.
class Block {
 public:
  Block(const Attended& a, const Seen* seen, int64_t queries, float* q, Arena& arena)
      : a_(a), seen_(seen), queries_(queries), q_(q) {
    low_ = seen[0].first;
    for (int64_t i = 0; i < queries; ++i) {
      low_ = std::min(low_, seen[i].first);
      high_ = std::max(high_, seen[i].last);
      entries_ = std::max(entries_, seen[i].entries);
      alike_ &= seen[i].chosen == nullptr;
    }
    heads_ = (a.heads + HEADS - 1) / HEADS * HEADS;
    first_entry_ = tiles(high_ - low_ + LANES) * TILE;  // whole vectors end before
    stride_ = first_entry_ + tiles(entries_ + LANES) * TILE;
    sheets_ = arena.take<float>(queries * heads_ * stride_);
    inverse_ = arena.take<float>(queries * heads_);
  }

  void run(Pool& pool) {
    const int64_t window = tiles(high_ - low_), shared = alike_ ? tiles(entries_) : 0;
    pool.run(window + shared, RUN, [&](int64_t task, int) {
      if (task < window) score_window(task * TILE);
      else score_entries((task - window) * TILE, 0, queries_);
    });
    if (!alike_) {
      const int64_t each = tiles(entries_);
      pool.run(queries_ * each, RUN, [&](int64_t task, int) {
        const int64_t i = task / each, first = task % each * TILE;
        if (first < seen_[i].entries) score_entries(first, i, i + 1);
      });
    }
    const int64_t groups = heads_ / HEADS;
    pool.run(queries_ * groups, RUN, [&](int64_t task, int) {
      soften(task / groups, task % groups * HEADS);
    });
    // wide slices of channels read entries fewer times, narrow ones are work for more threads
    const int64_t c = a_.channels, slice = c < 4 * LANES * pool.threads() ? 2 * LANES : 4 * LANES;
    pool.run((c + slice - 1) / slice, 1, [&](int64_t task, int) {
      weigh(task * slice, std::min(c, (task + 1) * slice));
    });
  }

 private:
  static int64_t tiles(int64_t keys) { return (keys + TILE - 1) / TILE; }

  float* sheet(int64_t i, int64_t h) const { return sheets_ + (i * heads_ + h) * stride_; }

  const float* query(int64_t i, int64_t h) const {  // heads beyond the last one repeat it
    return q_ + (i * a_.heads + std::min(h, a_.heads - 1)) * a_.channels;
  }

  // ---- scores ----

  void score_window(int64_t first) const {
    const float* rows = a_.window + (low_ + first) * a_.channels;
    score(rows, std::min(TILE, high_ - low_ - first), first, 0, queries_);
  }

  // Entries [first, first + TILE) of queries [from, to), which see the same.
  void score_entries(int64_t first, int64_t from, int64_t to) const {
    Arena& arena = worker_arena();
    Scope scope(arena);
    const int64_t most = alike_ ? entries_ : seen_[from].entries;
    const int64_t count = std::min(TILE, most - first);
    float* rows = arena.take<float>(TILE * a_.channels);
    unpack(seen_[from], first, count, 0, a_.channels, rows);
    score(rows, count, first_entry_ + first, from, to);
  }

  // Channels [low, high) of entries [first, first + count) of what a query sees: rows [count, high − low].
  void unpack(const Seen& seen, int64_t first, int64_t count, int64_t low, int64_t high,
              float* rows) const {
    const Paged& entries = *a_.entries;
    const uint8_t* at[TILE];
    int64_t page = first / entries.page_rows, in_page = first % entries.page_rows;
    for (int64_t i = 0; i < count; ++i) {
      at[i] = seen.chosen ? entries.at(a_.table, seen.chosen[first + i])
                          : entries.in(a_.table[page], in_page);
      if (++in_page == entries.page_rows) in_page = 0, ++page;
    }
    unpack_entries(at, count, a_.channels, a_.rotary, low, high, rows);
  }

  // q · k_s · c^-0.5 of `count` keys, rows [count, c], into the sheets from a column on.
  void score(const float* rows, int64_t count, int64_t column, int64_t from, int64_t to) const {
    const int64_t c = a_.channels;
    Arena& arena = worker_arena();
    Scope scope(arena);
    float* turned = arena.take<float>(c * TILE);  // [c, TILE]
    for (int64_t first = 0; first < TILE; first += WIDTH) {
      for (int64_t ch = 0; ch < c; ch += WIDTH) {
        vn r[WIDTH];
        for (int i = 0; i < WIDTH; ++i) {
          r[i] = load_vn(rows + std::min(first + i, count - 1) * c + ch);
        }
        transpose(r);
        for (int i = 0; i < WIDTH; ++i) store_vn(turned + (ch + i) * TILE + first, r[i]);
      }
    }
    for (int64_t i = from; i < to; ++i) {
      for (int64_t h = 0; h < heads_; h += HEADS) {
        for (int64_t s = 0; s < TILE; s += 2 * WIDTH) score_some(i, h, turned + s, column + s);
      }
    }
  }

  // `turned` [c, TILE]: two vectors of keys, HEADS heads from h on.
  void score_some(int64_t i, int64_t h, const float* turned, int64_t column) const {
    const float* q[HEADS];
    for (int j = 0; j < HEADS; ++j) q[j] = query(i, h + j);
    vn sums[HEADS][2] = {};
    for (int64_t ch = 0; ch < a_.channels; ++ch) {
      const vn a = load_vn(turned + ch * TILE), b = load_vn(turned + ch * TILE + WIDTH);
      for (int j = 0; j < HEADS; ++j) {
        const float factor = q[j][ch];
        sums[j][0] += factor * a;
        sums[j][1] += factor * b;
      }
    }
    const float scale = 1.0f / std::sqrt(static_cast<float>(a_.channels));
    for (int j = 0; j < HEADS; ++j) {
      float* to = sheet(i, h + j) + column;
      store_vn(to, sums[j][0] * scale);
      store_vn(to + WIDTH, sums[j][1] * scale);
    }
  }

  // ---- probabilities ----

  // Scores → exponentials over the highest score, sink apart; the denominator has the sink's too.
  void soften(int64_t i, int64_t h) const {
    const Seen& seen = seen_[i];
    const int64_t starts[2] = {seen.first - low_, first_entry_};
    const int64_t counts[2] = {seen.last - seen.first, seen.entries};
    float denominators[HEADS];
    for (int j = 0; j < HEADS; ++j) {
      float* sheet = this->sheet(i, h + j);
      const float sink = a_.sink[std::min(h + j, a_.heads - 1)];
      const float top = std::max(highest(sheet + starts[0], counts[0]),
                                 highest(sheet + starts[1], counts[1]));
      float base = exponential(splat(sink) - splat(top))[0];
      // beyond what `exponential` takes, as the plain operators
      if (sink == INFINITY) base = a_.low ? INFINITY : NAN;
      denominators[j] = base;
      for (int part = 0; part < 2; ++part) {
        float* p = sheet + starts[part];
        for (int64_t s = 0; s < counts[part]; s += LANES) {
          store(p + s, exponential(load(p + s) - splat(top)));
        }
      }
    }
    for (int part = 0; part < 2; ++part) {
      const float* p = sheet(i, h) + starts[part];
      for (int64_t s = 0; s < counts[part]; ++s) {
        for (int j = 0; j < HEADS; ++j) denominators[j] += p[j * stride_ + s];
      }
    }
    for (int j = 0; j < HEADS; ++j) {
      for (int part = 0; part < 2; ++part) {
        store_precision(sheet(i, h + j) + starts[part], counts[part], a_.low);
      }
      inverse_[i * heads_ + h + j] = 1.0f / denominators[j];
    }
  }

  static float highest(const float* x, int64_t count) {
    v16 top = splat(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) top = maximum(top, load(x + i));
    float found = -INFINITY;
    for (int l = 0; l < LANES; ++l) found = std::max(found, top[l]);
    for (; i < count; ++i) found = std::max(found, x[i]);
    return found;
  }

  // ---- values ----

  // Channels [first, last) of all queries and heads.
  void weigh(int64_t first, int64_t last) const {
    const int64_t c = a_.channels, wide = last - first;
    Arena& arena = worker_arena();
    Scope scope(arena);
    float* sums = arena.take<float>(queries_ * heads_ * wide);
    std::memset(sums, 0, queries_ * heads_ * wide * sizeof(float));
    for (int64_t i = 0; i < queries_; ++i) {
      const Seen& seen = seen_[i];
      add(a_.window + seen.first * c + first, c, wide, i, seen.first - low_,
          seen.last - seen.first, sums);
    }
    float* rows = arena.take<float>(TILE * wide);
    for (int64_t g = 0; g < (alike_ ? 1 : queries_); ++g) {  // queries that see the same entries
      const int64_t from = g, to = alike_ ? queries_ : g + 1;
      const int64_t most = alike_ ? entries_ : seen_[g].entries;
      for (int64_t e = 0; e < most; e += TILE) {
        unpack(seen_[g], e, std::min(TILE, most - e), first, last, rows);
        for (int64_t i = from; i < to; ++i) {
          const int64_t count = std::min(TILE, seen_[i].entries - e);
          add(rows, wide, wide, i, first_entry_ + e, count, sums);
        }
      }
    }
    for (int64_t i = 0; i < queries_; ++i) {
      for (int64_t h = 0; h < a_.heads; ++h) {
        const float* sum = sums + (i * heads_ + h) * wide;
        float* o = q_ + (i * a_.heads + h) * c + first;
        for (int64_t ch = 0; ch < wide; ++ch) o[ch] = sum[ch] * inverse_[i * heads_ + h];
      }
    }
  }

  // sums [heads, wide] of query i += Σ_s p_s · v_s: `count` keys from a column on, values
  // [count, stride].
  void add(const float* values, int64_t stride, int64_t wide, int64_t i, int64_t column,
           int64_t count, float* sums) const {
    if (count <= 0) return;
    constexpr int MOST = WIDTH == LANES ? 4 : 2;  // vectors of HEADS heads that stay in registers
    for (int64_t h = 0; h < heads_; h += HEADS) {
      const float* p = sheet(i, h) + column;
      float* to = sums + (i * heads_ + h) * wide;
      int64_t ch = 0;
      for (; ch + MOST * WIDTH <= wide; ch += MOST * WIDTH) {
        add_some<MOST>(values + ch, stride, p, count, to + ch, wide);
      }
      for (; ch < wide; ch += WIDTH) add_some<1>(values + ch, stride, p, count, to + ch, wide);
    }
  }

  template <int V>
  void add_some(const float* values, int64_t stride, const float* p, int64_t count, float* to,
                int64_t wide) const {
    vn total[HEADS][V];
    for (int j = 0; j < HEADS; ++j) {
      for (int v = 0; v < V; ++v) total[j][v] = load_vn(to + j * wide + v * WIDTH);
    }
    for (int64_t s = 0; s < count; ++s, values += stride) {
      vn value[V];
      for (int v = 0; v < V; ++v) value[v] = load_vn(values + v * WIDTH);
      for (int j = 0; j < HEADS; ++j) {
        const float weight = p[j * stride_ + s];
        for (int v = 0; v < V; ++v) total[j][v] += weight * value[v];
      }
    }
    for (int j = 0; j < HEADS; ++j) {
      for (int v = 0; v < V; ++v) store_vn(to + j * wide + v * WIDTH, total[j][v]);
    }
  }

  const Attended& a_;
  const Seen* seen_;
  int64_t queries_;
  float* q_;
  int64_t low_ = 0, high_ = 0, entries_ = 0, heads_ = 0, first_entry_ = 0, stride_ = 0;
  bool alike_ = true;  // entries are the first ones for all
  float *sheets_, *inverse_;
};

}  // namespace

int64_t queries_together(int64_t heads) { return std::clamp<int64_t>(32 / heads, 1, 8); }

void attend(Pool& pool, const Attended& a, const Seen* seen, int64_t queries, float* q,
            Arena& arena) {
  Scope scope(arena);
  Block(a, seen, queries, q, arena).run(pool);
}

}  // namespace dsv4::DSV4_ISA
