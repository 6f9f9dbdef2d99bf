// The attention sub-layer, mHC included:
//
//   qr = RMSNorm(wq_a u);  q = rotate(RMS(wq_b qr), t);  kv = rotate(RMSNorm(wkv u), t), as stored
//   o = attend(q, window ∪ chosen entries, sink), turned back;  y = wo_b · concat_g(wo_a_g · o_g)
//
// Tokens pass in pieces that end where the state is whole, so pieces of any size agree to the bit.
#include <algorithm>
#include <cmath>

#include "hyper.h"
#include "inputs.h"
#include "segment.h"
#include "streams.h"
#include "sublayers_isa.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int64_t BRIEF = 8;  // tokens of a segment that one thread attends to

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
    attend_segments();
    output(u);
    expand(pool_, layer_.shape, coefficients, u, rows_, x);
  }

  // The window entries alone, of rows x [rows, d] that are no streams.
  void remember(const float* x) {
    const int64_t d = layer_.shape.d, c = a_.channels;
    Inputs in(pool_, arena_, x, rows_, d, d, exact_);
    p_.kv = arena_.take<float>(rows_ * c);
    multiply(pool_, {{&a_.wkv, 0, c, in.low(a_.wkv.format), rows_, nullptr, nullptr, p_.kv, c}});
    open_places();
    pool_.run(rows_, 1, [&](int64_t t, int) { place_entry(t); });
    for (const Segment& s : pass_.segments) store_window(state_, p_, s);
  }

 private:
  // u → queries, the new window entries, raw compressor rows, indexer queries and weights.
  void project(const float* u) {
    const int64_t d = layer_.shape.d, c = a_.channels, ih = a_.index_heads;
    Inputs in(pool_, arena_, u, rows_, d, d, exact_);
    float* qr = arena_.take<float>(rows_ * a_.q_rank);
    p_.kv = arena_.take<float>(rows_ * c);
    std::vector<Product> products;
    const auto add = [&](const Matrix& w, const Arranged* x, float* y, int64_t stride) {
      products.push_back({&w, 0, w.rows, x, rows_, nullptr, nullptr, y, stride});
    };
    add(a_.wq_a, in.low(a_.wq_a.format), qr, a_.q_rank);
    add(a_.wkv, in.low(a_.wkv.format), p_.kv, c);
    const auto compressor = [&](const Compressor& k) {
      const int64_t width = k.width();
      float* raw = arena_.take<float>(rows_ * 2 * width);
      add(k.wkv, in.full(k.wkv.format), raw, 2 * width);
      add(k.wgate, in.full(k.wgate.format), raw + width, 2 * width);
      return raw;
    };
    if (a_.ratio > 0) p_.raw = compressor(a_.compressor);
    if (ih > 0) {
      p_.index_raw = compressor(a_.index_compressor);
      p_.index_weights = arena_.take<float>(rows_ * ih);
      add(a_.index_weights, in.full(a_.index_weights.format), p_.index_weights, ih);
    }
    multiply(pool_, products);

    store_precision(qr, rows_ * a_.q_rank, exact_);
    normalise(pool_, qr, a_.q_norm, rows_, a_.q_rank, layer_.shape.norm_eps, exact_);
    Inputs low(pool_, arena_, qr, rows_, a_.q_rank, a_.q_rank, exact_);
    products.clear();
    p_.q = arena_.take<float>(rows_ * a_.heads * c);
    add(a_.wq_b, low.low(a_.wq_b.format), p_.q, a_.heads * c);
    if (ih > 0) {
      p_.index_q = arena_.take<float>(rows_ * ih * a_.index_channels);
      add(a_.index_wq_b, low.low(a_.index_wq_b.format), p_.index_q, ih * a_.index_channels);
    }
    multiply(pool_, products);
  }

  // Room for phases and window entries.
  void open_places() {
    p_.row_bytes = entry_bytes(a_.channels, a_.rotary);
    p_.packed = arena_.take<uint8_t>(rows_ * p_.row_bytes);
    p_.phases = arena_.take<float>(rows_ * a_.rotary);
  }

  // Row t's phases, and its window entry as it is stored.
  void place_entry(int64_t t) {
    const int64_t c = a_.channels, r = a_.rotary;
    float *cosines = p_.phases + t * r, *sines = cosines + r / 2, *kv = p_.kv + t * c;
    phases(pass_.positions[t], a_.frequencies, r, cosines, sines);
    store_precision(kv, c, exact_);
    rms_norm(kv, a_.kv_norm, c, layer_.shape.norm_eps, kv);
    store_precision(kv, c, exact_);
    rotate(kv + c - r, r, cosines, sines, false);
    pack_entry(kv, c, r, p_.packed + t * p_.row_bytes);
  }

  // Norms, rotary positions and rounding of everything that has a position.
  void place() {
    const int64_t c = a_.channels, r = a_.rotary, half = r / 2;
    const float eps = layer_.shape.norm_eps;
    open_places();
    if (a_.index_heads > 0) {
      p_.query_bytes = index_query_bytes(a_.index_heads, a_.index_channels);
      p_.prepared = arena_.take<uint8_t>(rows_ * p_.query_bytes);
    }
    pool_.run(rows_, 1, [&](int64_t t, int) {
      place_entry(t);
      const float *cosines = p_.phases + t * r, *sines = cosines + half;
      for (int64_t h = 0; h < a_.heads; ++h) {
        float* q = p_.q + (t * a_.heads + h) * c;
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
      float* q = p_.index_q + (t * ih + h) * ic;
      store_precision(q, ic, exact_);
      rotate(q + ic - r, r, cosines, sines, false);
      store_precision(q, ic, exact_);
      hadamard(q, ic);
      store_precision(q, ic, exact_);
      round_key(q, ic);
    }
    const float scale = static_cast<float>(std::pow(ic, -0.5) * std::pow(ih, -0.5));
    float* w = p_.index_weights + t * ih;
    store_precision(w, ih, exact_);
    for (int64_t h = 0; h < ih; ++h) w[h] *= scale;
    store_precision(w, ih, exact_);
    prepare_index_query(p_.index_q + t * ih * ic, w, ih, ic, p_.prepared + t * p_.query_bytes);
  }

  // Short segments are a thread's work each, the longest context first; what would leave threads idle
  // is shared out among all of them, as are long segments.
  void attend_segments() {
    std::vector<const Segment*> brief;
    for (const Segment& s : pass_.segments) {
      if (s.count <= BRIEF) brief.push_back(&s);
      else SegmentAttention(layer_, state_, p_, s, pool_, arena_).run();
    }
    std::sort(brief.begin(), brief.end(), [](const Segment* a, const Segment* b) {
      return a->start != b->start ? a->start > b->start : a->row < b->row;
    });
    const int64_t count = static_cast<int64_t>(brief.size()), shared = count % pool_.threads();
    for (int64_t i = 0; i < shared; ++i) SegmentAttention(layer_, state_, p_, *brief[i], pool_, arena_).run();
    pool_.run(count - shared, 1, [&](int64_t i, int) {
      SegmentAttention(layer_, state_, p_, *brief[shared + i], Pool::alone(), worker_arena()).run();
    });
  }

  // Heads turned back, then the grouped output projection into y [rows, d].
  void output(float* y) {
    const int64_t c = a_.channels, r = a_.rotary, d = layer_.shape.d;
    pool_.run(rows_, 2, [&](int64_t t, int) {
      const float* cosines = p_.phases + t * r;
      for (int64_t h = 0; h < a_.heads; ++h) {
        float* o = p_.q + (t * a_.heads + h) * c;
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
      in.emplace_back(pool_, arena_, p_.q + g * columns, rows_, columns, a_.heads * c, false);
      products.push_back({&a_.wo_a, g * a_.o_rank, (g + 1) * a_.o_rank,
                          in.back().low(a_.wo_a.format), rows_, nullptr, nullptr,
                          low + g * a_.o_rank, wide});
    }
    multiply(pool_, products);
    store_precision(low, rows_ * wide, exact_);
    Inputs out(pool_, arena_, low, rows_, wide, wide, exact_);
    multiply(pool_, {{&a_.wo_b, 0, d, out.low(a_.wo_b.format), rows_, nullptr, nullptr, y, d}});
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
  Projected p_;
};

}  // namespace

void attend_layer(const Layer& layer, const LayerState& state, const Span& span, void* x) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  const int64_t width = layer.shape.streams * layer.shape.d;
  for (const Pass& pass : span.passes) {
    Scope scope(arena);
    Streams streams(pool, x, pass.sources.data(), pass.rows, width, layer.exact, arena);
    AttendPass(layer, state, pass, pool, arena).run(streams.data());
    streams.write_back();
  }
}

void remember_layer(const Layer& layer, const LayerState& state, const Span& span, const void* x) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  for (const Pass& pass : span.passes) {
    Scope scope(arena);
    Streams rows(pool, const_cast<void*>(x), pass.sources.data(), pass.rows, layer.shape.d,
                 layer.exact, arena);  // read only
    AttendPass(layer, state, pass, pool, arena).remember(rows.data());
  }
}

}  // namespace dsv4::DSV4_ISA
