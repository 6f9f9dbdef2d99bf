// The mixture-of-experts sub-layer, mHC included:
//
//   s = √softplus(gate u), chosen by s + bias or by token id, p = scaling · softmax(log s_chosen)
//   y = Σ_e w2_e(p_e · silu(min(w1_e u, L)) ⊙ clamp(w3_e u, −L, L)) + shared(u)
//
// Each (token, choice) is a slot with rows of its own; slots are added in the order of the choice,
// so a token's sum does not depend on its neighbours.
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

#include "hyper.h"
#include "inputs.h"
#include "residency.h"
#include "streams.h"
#include "sublayers_isa.h"

namespace dsv4::DSV4_ISA {
namespace {

// Rows of slots for each expert that has any: experts, then their tokens and slots side by side.
struct Grouping {
  std::vector<int32_t> tokens, slots;
  std::vector<int64_t> ends;  // [experts]
};

Grouping group(const int32_t* experts, int64_t rows, int64_t k, int64_t count) {
  Grouping g;
  g.ends.assign(count, 0);
  g.tokens.resize(rows * k);
  g.slots.resize(rows * k);
  for (int64_t i = 0; i < rows * k; ++i) ++g.ends[experts[i]];
  int64_t total = 0;
  for (auto& end : g.ends) {
    total += end;
    end = total - end;  // where the expert's rows begin; moved to their end below
  }
  for (int64_t i = 0; i < rows * k; ++i) {
    const int64_t at = g.ends[experts[i]]++;
    g.tokens[at] = static_cast<int32_t>(i / k);
    g.slots[at] = static_cast<int32_t>(i);
  }
  return g;
}

float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

// log √softplus(x), where softplus(x) is e^x to float32's last bit without taking it.
float log_score(float x) { return 0.5f * (x < -20.0f ? x : std::log(softplus(x))); }

// The experts with the highest √softplus(logit) + bias [experts], NaN first.
void choose(const Mixture& m, const float* logits, float* biased, int32_t* experts) {
  for (int64_t e = 0; e < m.experts; ++e) biased[e] = std::sqrt(softplus(logits[e])) + m.bias[e];
  for (int64_t j = 0; j < m.chosen; ++j) {
    int64_t best = -1;
    for (int64_t e = 0; e < m.experts; ++e) {
      if (std::find(experts, experts + j, e) != experts + j) continue;
      if (best < 0 || biased[e] > biased[best] ||
          (std::isnan(biased[e]) && !std::isnan(biased[best]))) {
        best = e;
      }
    }
    experts[j] = static_cast<int32_t>(best);
  }
}

// A token's experts by the table. Its file may have been written to since it was checked.
void look_up(const Mixture& m, int64_t id, int32_t* experts) {
  if (id < 0 || id >= m.vocabulary) {
    throw std::invalid_argument("token id " + std::to_string(id) + " is outside the table of " +
                                std::to_string(m.vocabulary));
  }
  for (int64_t j = 0; j < m.chosen; ++j) {
    const int64_t expert = m.table[id * m.chosen + j];
    if (expert < 0 || expert >= m.experts) {
      throw std::invalid_argument("tid2eid sends token " + std::to_string(id) + " to expert " +
                                  std::to_string(expert) + " of " + std::to_string(m.experts));
    }
    experts[j] = static_cast<int32_t>(expert);
  }
}

// Logits of one token → its experts and their weights.
void route(const Mixture& m, const float* logits, float* biased, int64_t id, int32_t* experts,
           float* weights) {
  if (m.table != nullptr) {
    look_up(m, id, experts);
  } else {
    choose(m, logits, biased, experts);
  }
  float top = -INFINITY, total = 0;
  for (int64_t j = 0; j < m.chosen; ++j) {
    weights[j] = log_score(logits[experts[j]]);
    top = std::max(top, weights[j]);
  }
  for (int64_t j = 0; j < m.chosen; ++j) {
    weights[j] = std::exp(weights[j] - top);
    total += weights[j];
  }
  for (int64_t j = 0; j < m.chosen; ++j) weights[j] = m.scaling * weights[j] / total;
}

// p · silu(min(up1, L)) ⊙ clamp(up3, −L, L), in up1's place.
void gate_product(float* up1, const float* up3, int64_t n, float limit, float p) {
  const v16 bound = splat(limit), one = splat(1.0f);
  for (int64_t i = 0; i < n; i += LANES) {
    const v16 a = minimum(bound, load(up1 + i));
    const v16 b = minimum(bound, maximum(-bound, load(up3 + i)));
    const v16 e = -a > 88.0f ? splat(INFINITY) : exponential(-a);
    store(up1 + i, a / (one + e) * b * p);
  }
}

// The products of a layer's experts; where not all may be in memory, as many at a time as fit.
void multiply_experts(Pool& pool, Residency* residency, const std::vector<Product>& products) {
  if (residency == nullptr) return multiply(pool, products);
  std::vector<int32_t> units;
  for (const Product& p : products) units.push_back(p.w->unit);
  for (size_t first = 0, last; first < products.size(); first = last) {
    last = first + residency->admit(&units[first], units.size() - first);
    multiply(pool, {products.begin() + first, products.begin() + last});
  }
}

void mix_pass(const Layer& layer, const Pass& pass, const int64_t* ids, float* x, Pool& pool,
              Arena& arena) {
  const Mixture& m = layer.mixture;
  const int64_t d = layer.shape.d, hc = layer.shape.streams, rows = pass.rows, k = m.chosen,
                inner = m.inner;
  float* coefficients = arena.take<float>(rows * (2 + hc) * hc);
  float* u = arena.take<float>(rows * d);
  collapse(pool, layer.shape, m.hyper, false, x, rows, coefficients, u, arena);
  normalise(pool, u, m.norm, rows, d, layer.shape.norm_eps, layer.exact);

  // rows of slots, then the shared expert's
  float* up1 = arena.take<float>((rows * k + rows) * inner);
  float* up3 = arena.take<float>((rows * k + rows) * inner);
  float* shared1 = up1 + rows * k * inner;
  float* shared3 = up3 + rows * k * inner;
  float* logits = arena.take<float>(rows * m.experts);
  float* biased = arena.take<float>(m.table ? 0 : rows * m.experts);
  Inputs in(pool, arena, u, rows, d, d, layer.exact);
  const auto whole = [&](const Matrix& w, const Arranged* a, float* y) {
    return Product{&w, 0, w.rows, a, rows, nullptr, nullptr, y, w.rows};
  };
  multiply(pool, {whole(m.gate, in.full(m.gate.format), logits),
                  whole(m.shared1, in.low(m.shared1.format), shared1),
                  whole(m.shared3, in.low(m.shared3.format), shared3)});

  int32_t* experts = arena.take<int32_t>(rows * k);
  float* weights = arena.take<float>(rows * k);
  pool.run(rows, 2, [&](int64_t t, int) {
    float* room = m.table ? nullptr : biased + t * m.experts;
    route(m, logits + t * m.experts, room, ids[pass.sources[t]], experts + t * k, weights + t * k);
  });
  const Grouping g = group(experts, rows, k, m.experts);
  const auto each = [&](auto&& add) {
    for (int64_t e = 0, first = 0; e < m.experts; first = g.ends[e++]) {
      if (g.ends[e] > first) add(e, g.ends[e] - first, &g.tokens[first], &g.slots[first]);
    }
  };
  std::vector<Product> products;
  each([&](int64_t e, int64_t count, const int32_t* tokens, const int32_t* slots) {
    for (const auto& [w, y] : {std::pair{&m.w1[e], up1}, std::pair{&m.w3[e], up3}}) {
      products.push_back({w, 0, inner, in.low(w->format), count, tokens, slots, y, inner});
    }
  });
  multiply_experts(pool, m.residency, products);

  pool.run(rows * k + rows, 16, [&](int64_t slot, int) {
    const float p = slot < rows * k ? weights[slot] : 1.0f;
    gate_product(up1 + slot * inner, up3 + slot * inner, inner, m.limit, p);
    store_precision(up1 + slot * inner, inner, layer.exact);
  });

  float* out = arena.take<float>((rows * k + rows) * d);
  Inputs routed(pool, arena, up1, rows * k, inner, inner, layer.exact);
  Inputs shared(pool, arena, shared1, rows, inner, inner, layer.exact);
  products.clear();
  each([&](int64_t e, int64_t count, const int32_t*, const int32_t* slots) {
    products.push_back(
        {&m.w2[e], 0, d, routed.low(m.w2[e].format), count, slots, slots, out, d});
  });
  products.push_back(whole(m.shared2, shared.low(m.shared2.format), out + rows * k * d));
  multiply_experts(pool, m.residency, products);

  pool.run(rows, 4, [&](int64_t t, int) {
    const float* slots = out + t * k * d;
    const float* last = out + (rows * k + t) * d;
    float* y = u + t * d;
    for (int64_t i = 0; i < d; i += LANES) {
      v16 total = load(slots + i);
      for (int64_t j = 1; j < k; ++j) total += load(slots + j * d + i);
      store(y + i, total + load(last + i));
    }
    store_precision(y, d, layer.exact);
  });
  expand(pool, layer.shape, coefficients, u, rows, x);
}

}  // namespace

void mix_layer(const Layer& layer, const Span& span, const int64_t* ids, void* x) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  const int64_t width = layer.shape.streams * layer.shape.d;
  for (const Pass& pass : span.passes) {
    Scope scope(arena);
    Streams streams(pool, x, pass.sources.data(), pass.rows, width, layer.exact, arena);
    mix_pass(layer, pass, ids, streams.data(), pool, arena);
    streams.write_back();
  }
}

void head_logits(const Head& head, const void* x, int64_t tokens, float* hidden, float* logits) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  const int64_t hc = head.shape.streams, d = head.shape.d, width = hc * d;
  for (int64_t first = 0; first < tokens; first += ROWS) {
    Scope scope(arena);
    const int64_t rows = std::min(ROWS, tokens - first);
    int64_t* sources = arena.take<int64_t>(rows);
    std::iota(sources, sources + rows, first);
    Streams streams(pool, const_cast<void*>(x), sources, rows, width, head.exact, arena);
    float* coefficients = arena.take<float>(rows * hc);
    float* u = arena.take<float>(rows * d);
    collapse(pool, head.shape, head.hyper, true, streams.data(), rows, coefficients, u, arena);
    if (hidden != nullptr) {
      std::memcpy(hidden + first * d, u, rows * d * sizeof(float));
      store_precision(hidden + first * d, rows * d, head.exact);
    }
    normalise(pool, u, head.norm, rows, d, head.shape.norm_eps, head.exact);
    Inputs in(pool, arena, u, rows, d, d, false);
    const int64_t vocabulary = head.weight.rows;
    multiply(pool, {{&head.weight, 0, vocabulary, in.full(head.weight.format), rows, nullptr,
                     nullptr, logits + first * vocabulary, vocabulary}});
  }
}

}  // namespace dsv4::DSV4_ISA
