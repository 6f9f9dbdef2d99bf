// What a block draft has beside its stages:
//
//   main_x = RMSNorm(main_proj · main_hidden)
//   e = markov_w1[x_k];  l_k = base_k + markov_w2 · e;  c_k = proj · [u_k ; e]
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

}  // namespace

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
