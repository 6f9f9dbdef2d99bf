// The attention sub-layer, mHC included:
//
//   qr = RMSNorm(wq_a u);  q = rotate(RMS(wq_b qr), t);  kv = rotate(RMSNorm(wkv u), t), as stored
//   o = attend(q, window ∪ chosen entries, sink), turned back;  y = wo_b · concat_g(wo_a_g · o_g)
//
// Tokens pass in pieces that end where the state is whole, so pieces of any size agree to the bit.
#include <cmath>

#include "compressor.h"
#include "hyper.h"
#include "inputs.h"
#include "passes.h"
#include "sparse.h"
#include "streams.h"
#include "sublayers_isa.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int64_t KEY_RANGE = 512;  // indexer keys that one task scores
constexpr int64_t QUERIES = 32;     // queries scored together
constexpr int64_t UNPACKED = 64;    // entries that a thread unpacks at a time

class AttendPass {
 public:
  AttendPass(const Layer& layer, const LayerState& state, const Pass& pass, Pool& pool,
             Arena& arena)
      : layer_(layer), a_(layer.attention), state_(state), pass_(pass), pool_(pool), arena_(arena),
        rows_(pass.rows), exact_(layer.exact) {}

  void run(float* x) {
    const int64_t d = layer_.shape.d, hc = layer_.shape.streams;
    float* coefficients = arena_.take<float>(rows_ * (2 + hc) * hc);
    float* u = arena_.take<float>(rows_ * d);
    collapse(pool_, layer_.shape, a_.hyper, false, x, rows_, coefficients, u, arena_);
    normalise(pool_, u, a_.norm, rows_, d, layer_.shape.norm_eps, exact_);
    project(u);
    place();
    for (const Segment& segment : pass_.segments) attend_segment(segment);
    output(u);
    expand(pool_, layer_.shape, coefficients, u, rows_, x);
  }

 private:
  // u → queries, the new window entries, raw compressor rows, indexer queries and weights.
  void project(const float* u) {
    const int64_t d = layer_.shape.d, c = a_.channels, ih = a_.index_heads;
    Inputs in(pool_, arena_, u, rows_, d, d, exact_);
    float* qr = arena_.take<float>(rows_ * a_.q_rank);
    kv_ = arena_.take<float>(rows_ * c);
    std::vector<Product> products;
    const auto add = [&](const Matrix& w, const Arranged* x, float* y, int64_t stride) {
      products.push_back({&w, 0, w.rows, x, rows_, nullptr, nullptr, y, stride});
    };
    add(a_.wq_a, in.low(a_.wq_a.format), qr, a_.q_rank);
    add(a_.wkv, in.low(a_.wkv.format), kv_, c);
    const auto compressor = [&](const Compressor& k) {
      const int64_t width = k.width();
      float* raw = arena_.take<float>(rows_ * 2 * width);
      add(k.wkv, in.full(k.wkv.format), raw, 2 * width);
      add(k.wgate, in.full(k.wgate.format), raw + width, 2 * width);
      return raw;
    };
    if (a_.ratio > 0) raw_ = compressor(a_.compressor);
    if (ih > 0) {
      index_raw_ = compressor(a_.index_compressor);
      index_weights_ = arena_.take<float>(rows_ * ih);
      add(a_.index_weights, in.full(a_.index_weights.format), index_weights_, ih);
    }
    multiply(pool_, products, arena_);

    store_precision(qr, rows_ * a_.q_rank, exact_);
    normalise(pool_, qr, a_.q_norm, rows_, a_.q_rank, layer_.shape.norm_eps, exact_);
    Inputs low(pool_, arena_, qr, rows_, a_.q_rank, a_.q_rank, exact_);
    products.clear();
    q_ = arena_.take<float>(rows_ * a_.heads * c);
    add(a_.wq_b, low.low(a_.wq_b.format), q_, a_.heads * c);
    if (ih > 0) {
      index_q_ = arena_.take<float>(rows_ * ih * a_.index_channels);
      add(a_.index_wq_b, low.low(a_.index_wq_b.format), index_q_, ih * a_.index_channels);
    }
    multiply(pool_, products, arena_);
  }

  // Norms, rotary positions and rounding of everything that has a position.
  void place() {
    const int64_t c = a_.channels, r = a_.rotary, half = r / 2;
    const float eps = layer_.shape.norm_eps;
    row_bytes_ = entry_bytes(c, r);
    packed_ = arena_.take<uint8_t>(rows_ * row_bytes_);
    phases_ = arena_.take<float>(rows_ * r);
    if (a_.index_heads > 0) {
      query_bytes_ = index_query_bytes(a_.index_heads, a_.index_channels);
      prepared_ = arena_.take<uint8_t>(rows_ * query_bytes_);
    }
    pool_.run(rows_, 1, [&](int64_t t, int) {
      float* cosines = phases_ + t * r;
      float* sines = cosines + half;
      phases(pass_.position(t), a_.frequencies, r, cosines, sines);
      float* kv = kv_ + t * c;
      store_precision(kv, c, exact_);
      rms_norm(kv, a_.kv_norm, c, eps, kv);
      store_precision(kv, c, exact_);
      rotate(kv + c - r, r, cosines, sines, false);
      pack_entry(kv, c, r, packed_ + t * row_bytes_);
      for (int64_t h = 0; h < a_.heads; ++h) {
        float* q = q_ + (t * a_.heads + h) * c;
        store_precision(q, c, exact_);
        rms_norm(q, nullptr, c, eps, q);
        store_precision(q, c, exact_);
        rotate(q + c - r, r, cosines, sines, false);
        store_precision(q, c, exact_);
      }
      if (a_.index_heads > 0) place_index(t, cosines, sines);
    });
  }

  void place_index(int64_t t, const float* cosines, const float* sines) {
    const int64_t ih = a_.index_heads, ic = a_.index_channels, r = a_.rotary;
    for (int64_t h = 0; h < ih; ++h) {
      float* q = index_q_ + (t * ih + h) * ic;
      store_precision(q, ic, exact_);
      rotate(q + ic - r, r, cosines, sines, false);
      store_precision(q, ic, exact_);
      hadamard(q, ic);
      store_precision(q, ic, exact_);
      round_key(q, ic);
    }
    const float scale = static_cast<float>(std::pow(ic, -0.5) * std::pow(ih, -0.5));
    float* w = index_weights_ + t * ih;
    store_precision(w, ih, exact_);
    for (int64_t h = 0; h < ih; ++h) w[h] *= scale;
    store_precision(w, ih, exact_);
    prepare_index_query(index_q_ + t * ih * ic, w, ih, ic, prepared_ + t * query_bytes_);
  }

  // One sequence's new tokens: close blocks, attend, store the window entries.
  void attend_segment(const Segment& s) {
    Scope scope(arena_);
    const int64_t c = a_.channels;
    if (a_.ratio > 0) {
      compress(pool_, a_.compressor, exact_, raw_ + s.row * 2 * a_.compressor.width(), s.start,
               s.count, s.sequence, state_.tail, state_.entries);
    }
    if (a_.index_heads > 0) {
      compress(pool_, a_.index_compressor, exact_,
               index_raw_ + s.row * 2 * a_.index_compressor.width(), s.start, s.count, s.sequence,
               state_.index_tail, state_.keys);
    }
    previous_ = std::min(a_.window - 1, s.start);
    float* window = arena_.take<float>((previous_ + s.count) * c);
    pool_.run(previous_ + s.count, UNPACKED, [&](int64_t i, int) {
      const int64_t position = s.start - previous_ + i;
      const uint8_t* row = i < previous_
                               ? state_.window.at(s.sequence, position % state_.window.capacity)
                               : packed_ + (s.row + i - previous_) * row_bytes_;
      unpack_entry(row, c, a_.rotary, window + i * c);
    });
    window_ = window;
    attend_queries(s);
    for (int64_t t = std::max<int64_t>(0, s.count - state_.window.capacity); t < s.count; ++t) {
      std::memcpy(state_.window.at(s.sequence, (s.start + t) % state_.window.capacity),
                  packed_ + (s.row + t) * row_bytes_, row_bytes_);
    }
  }

  void attend_queries(const Segment& s) {
    const int64_t c = a_.channels;
    const int64_t stored = a_.ratio > 0 ? (s.start + s.count) / a_.ratio : 0;
    const bool chooses = a_.index_heads > 0 && stored > a_.topk;
    // unpack all entries once if the queries would unpack more by themselves
    const int64_t wanted = chooses ? s.count * a_.topk : s.count * stored;
    const float* all = nullptr;
    if (stored > 0 && wanted >= stored) {
      float* unpacked = arena_.take<float>(stored * c);
      pool_.run(stored, UNPACKED, [&](int64_t i, int) {
        unpack_entry(state_.entries.at(s.sequence, i), c, a_.rotary, unpacked + i * c);
      });
      all = unpacked;
    }
    const int64_t together = chooses ? QUERIES : s.count;
    for (int64_t first = 0; first < s.count; first += together) {
      const int64_t last = std::min(s.count, first + together);
      Scope scope(arena_);
      const uint16_t* ranks = chooses ? rank(s, first, last) : nullptr;
      attend_some(s, first, last, ranks, stored, all);
    }
  }

  // Ranks of the entries that queries [first, last) see: [queries, stored].
  const uint16_t* rank(const Segment& s, int64_t first, int64_t last) {
    const int64_t ih = a_.index_heads, ic = a_.index_channels;
    const int64_t stored = (s.start + s.count) / a_.ratio, seen = (s.start + last) / a_.ratio;
    uint16_t* ranks = arena_.take<uint16_t>((last - first) * stored);
    pool_.run((seen + KEY_RANGE - 1) / KEY_RANGE, 1, [&](int64_t task, int) {
      const int64_t low = task * KEY_RANGE, count = std::min(KEY_RANGE, seen - low);
      int64_t visible[QUERIES];
      for (int64_t t = first; t < last; ++t) {
        visible[t - first] = std::min(count, (s.start + t + 1) / a_.ratio - low);
      }
      index_ranks(prepared_ + (s.row + first) * query_bytes_, last - first, visible, ih, ic,
                  state_.keys.at(s.sequence, low), count, ranks + low, stored);
    });
    return ranks;
  }

  void attend_some(const Segment& s, int64_t first, int64_t last, const uint16_t* ranks,
                   int64_t stored, const float* all) {
    if (last - first >= pool_.threads()) {
      pool_.run(last - first, 1, [&](int64_t i, int) {
        Arena& arena = worker_arena();
        Scope scope(arena);
        const auto keys = keys_of(s, first + i, ranks ? ranks + i * stored : nullptr, all, arena);
        float* q = q_ + (s.row + first + i) * a_.heads * a_.channels;  // the output takes its place
        attend(q, a_.heads, a_.channels, keys.data, keys.count, a_.sink, exact_, q, arena);
      });
      return;
    }
    for (int64_t i = 0; i < last - first; ++i) {
      Scope scope(arena_);
      const auto keys = keys_of(s, first + i, ranks ? ranks + i * stored : nullptr, all, arena_);
      float* q = q_ + (s.row + first + i) * a_.heads * a_.channels;
      attend_together(pool_, q, a_.heads, a_.channels, keys.data, keys.count, a_.sink, exact_, q,
                      arena_);
    }
  }

  struct Keys {
    const float** data;
    int64_t count;
  };

  // What query t of a segment attends to: its window, then its entries in their order.
  Keys keys_of(const Segment& s, int64_t t, const uint16_t* ranks, const float* all,
               Arena& arena) const {
    const int64_t c = a_.channels, position = s.start + t;
    const int64_t seen = std::min(a_.window, position + 1);
    const int64_t visible = a_.ratio > 0 ? (position + 1) / a_.ratio : 0;
    const bool picks = a_.index_heads > 0 && visible > a_.topk;
    const int64_t entries = picks ? a_.topk : visible;
    const Keys keys{arena.take<const float*>(seen + entries), seen + entries};
    for (int64_t i = 0; i < seen; ++i) keys.data[i] = window_ + (previous_ + t - seen + 1 + i) * c;
    int32_t* chosen = picks ? arena.take<int32_t>(entries) : nullptr;
    if (picks) top_entries(ranks, visible, a_.topk, chosen);
    float* unpacked = all == nullptr ? arena.take<float>(entries * c) : nullptr;
    for (int64_t i = 0; i < entries; ++i) {
      const int64_t entry = picks ? chosen[i] : i;
      if (all == nullptr) {
        unpack_entry(state_.entries.at(s.sequence, entry), c, a_.rotary, unpacked + i * c);
      }
      keys.data[seen + i] = all ? all + entry * c : unpacked + i * c;
    }
    return keys;
  }

  // Heads turned back, then the grouped output projection into y [rows, d].
  void output(float* y) {
    const int64_t c = a_.channels, r = a_.rotary, d = layer_.shape.d;
    pool_.run(rows_, 2, [&](int64_t t, int) {
      const float* cosines = phases_ + t * r;
      for (int64_t h = 0; h < a_.heads; ++h) {
        float* o = q_ + (t * a_.heads + h) * c;
        store_precision(o, c, exact_);
        rotate(o + c - r, r, cosines, cosines + r / 2, true);
        store_precision(o, c, exact_);
      }
    });
    const int64_t wide = a_.groups * a_.o_rank, columns = a_.wo_a.columns;
    float* low = arena_.take<float>(rows_ * wide);
    std::vector<Inputs> in;
    std::vector<Product> products;
    in.reserve(a_.groups);
    for (int64_t g = 0; g < a_.groups; ++g) {  // wo_a's input is not rounded to FP8
      in.emplace_back(pool_, arena_, q_ + g * columns, rows_, columns, a_.heads * c, false);
      products.push_back({&a_.wo_a, g * a_.o_rank, (g + 1) * a_.o_rank,
                          in.back().low(a_.wo_a.format), rows_, nullptr, nullptr,
                          low + g * a_.o_rank, wide});
    }
    multiply(pool_, products, arena_);
    store_precision(low, rows_ * wide, exact_);
    Inputs out(pool_, arena_, low, rows_, wide, wide, exact_);
    multiply(pool_, {{&a_.wo_b, 0, d, out.low(a_.wo_b.format), rows_, nullptr, nullptr, y, d}},
             arena_);
    store_precision(y, rows_ * d, exact_);
  }

  const Layer& layer_;
  const Attention& a_;
  const LayerState& state_;
  const Pass& pass_;
  Pool& pool_;
  Arena& arena_;
  int64_t rows_;
  bool exact_;
  float *q_ = nullptr, *kv_ = nullptr, *raw_ = nullptr, *phases_ = nullptr;
  float *index_raw_ = nullptr, *index_weights_ = nullptr, *index_q_ = nullptr;
  uint8_t *packed_ = nullptr, *prepared_ = nullptr;
  int64_t row_bytes_ = 0, query_bytes_ = 0, previous_ = 0;
  const float* window_ = nullptr;
};

}  // namespace

void attend_layer(const Layer& layer, const LayerState& state, const Span& span, void* x) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  const int64_t width = layer.shape.streams * layer.shape.d;
  for (const Pass& pass : passes(span)) {
    Scope scope(arena);
    Streams streams(x, pass.first, pass.rows, width, layer.exact, arena);
    AttendPass(layer, state, pass, pool, arena).run(streams.data());
    streams.write_back();
  }
}

}  // namespace dsv4::DSV4_ISA
