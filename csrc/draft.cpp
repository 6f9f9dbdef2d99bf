// What drafts have beside their blocks.
//
// MTP:     x_j = e_proj · RMSNorm(embedded) + h_proj · RMSNorm(h_j) for each stream j
// DSpark:  main_x = RMSNorm(main_proj · main_hidden)
//          e = markov_w1[x_k];  l_k = base_k + markov_w2 · e;  c_k = proj · [u_k ; e]
#include <cstring>

#include "inputs.h"
#include "streams.h"
#include "sublayers_isa.h"

namespace dsv4::DSV4_ISA {
namespace {

void read_row(const Matrix& w, int64_t r, float* to) {
  if (w.format == Format::F32) {
    std::memcpy(to, w.row(r), w.row_bytes());
    return;
  }
  const auto* from = reinterpret_cast<const uint16_t*>(w.row(r));
  for (int64_t i = 0; i < w.columns; ++i) to[i] = from_bf16(from[i]);
}

// w · RMSNorm(x) for rows of x at `sources` [.., parts, d]: float32 [rows, parts, d].
float* projected(Pool& pool, Arena& arena, const Matrix& w, const float* norm, float eps, bool exact,
                 const void* x, const int64_t* sources, int64_t rows, int64_t parts) {
  const int64_t d = w.columns, count = rows * parts;
  Streams from(pool, const_cast<void*>(x), sources, rows, parts * d, exact, arena);  // read only
  float* u = arena.take<float>(count * d);
  std::memcpy(u, from.data(), count * d * sizeof(float));
  normalise(pool, u, norm, count, d, eps, exact);
  float* y = arena.take<float>(count * w.rows);
  Inputs in(pool, arena, u, count, d, d, exact);
  multiply(pool, {{&w, 0, w.rows, in.low(w.format), count, nullptr, nullptr, y, w.rows}});
  store_precision(y, count * w.rows, exact);
  return y;
}

}  // namespace

void join_rows(const Joint& joint, const Span& span, const void* embedded, const void* streams,
               void* x) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  const int64_t d = joint.e_proj.rows, hc = joint.streams;
  for (const Pass& pass : span.passes) {
    Scope scope(arena);
    const float* e = projected(pool, arena, joint.e_proj, joint.enorm, joint.eps, joint.exact,
                               embedded, pass.sources.data(), pass.rows, 1);
    float* h = projected(pool, arena, joint.h_proj, joint.hnorm, joint.eps, joint.exact, streams,
                         pass.sources.data(), pass.rows, hc);
    for (int64_t r = 0; r < pass.rows * hc; ++r) {
      for (int64_t i = 0; i < d; ++i) h[r * d + i] += e[r / hc * d + i];
    }
    write_rows(pool, h, x, pass.sources.data(), pass.rows, hc * d, joint.exact);
  }
}

void make_context(const Context& context, const Span& span, const void* hidden, void* x) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  const Matrix& w = context.proj;
  const int64_t d = w.rows, width = w.columns;
  for (const Pass& pass : span.passes) {
    Scope scope(arena);
    Streams means(pool, const_cast<void*>(hidden), pass.sources.data(), pass.rows, width,
                  context.exact, arena);  // read only
    Inputs in(pool, arena, means.data(), pass.rows, width, width, context.exact);
    float* y = arena.take<float>(pass.rows * d);
    multiply(pool, {{&w, 0, d, in.low(w.format), pass.rows, nullptr, nullptr, y, d}});
    normalise(pool, y, context.norm, pass.rows, d, context.eps, context.exact);
    write_rows(pool, y, x, pass.sources.data(), pass.rows, d, context.exact);
  }
}

void correct_row(const Markov& markov, const int64_t* tokens, int64_t batch, int64_t block,
                 int64_t k, const float* hidden, const float* logits, float* corrected,
                 float* confidence) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  Scope scope(arena);
  const int64_t vocabulary = markov.w2.rows, rank = markov.w1.columns;
  const int64_t width = markov.sure.columns, d = width - rank;
  float* rows = arena.take<float>(batch * width);  // u_k | e
  for (int64_t b = 0; b < batch; ++b) {
    std::memcpy(rows + b * width, hidden + (b * block + k) * d, d * sizeof(float));
    read_row(markov.w1, tokens[b], rows + b * width + d);
  }
  Inputs e(pool, arena, rows + d, batch, rank, width, false);
  Inputs both(pool, arena, rows, batch, width, width, false);
  multiply(pool, {{&markov.w2, 0, vocabulary, e.full(markov.w2.format), batch, nullptr, nullptr,
                   corrected, vocabulary},
                  {&markov.sure, 0, 1, both.full(markov.sure.format), batch, nullptr, nullptr,
                   confidence, 1}});
  pool.run(batch, 1, [&](int64_t b, int) {
    const float* base = logits + (b * block + k) * vocabulary;
    for (int64_t v = 0; v < vocabulary; ++v) corrected[b * vocabulary + v] += base[v];
  });
}

}  // namespace dsv4::DSV4_ISA
