// The operators of training, as Python calls them: what they are handed is looked at here.
#include "training.h"

#include <nanobind/stl/optional.h>

#include "alone.h"
#include "arrays.h"
#include "sublayers.h"

namespace dsv4 {
namespace {

using Matrix2 = nb::ndarray<float, nb::ndim<2>, nb::device::cpu>;

// A matrix whose rows, or whose columns, lie side by side.
Side side_of(const char* what, const Matrix2& x) {
  const int64_t rows = x.shape(0), columns = x.shape(1);
  if (columns == 1 || x.stride(1) == 1) return {x.data(), rows == 1 ? columns : x.stride(0), false};
  if (rows == 1 || x.stride(0) == 1) return {x.data(), x.stride(1), true};
  throw std::invalid_argument(std::string(what) + " has neither rows nor columns side by side");
}

float* data_of(const std::optional<Floats>& array) { return array ? array->data() : nullptr; }

Routing routing_of(Floats x, Table indices, Floats weights, Floats w1, Floats w2, Floats w3,
                   float limit, bool low) {
  require_shape("x", shape_of(x), {-1, -1});
  const int64_t tokens = x.shape(0), d = x.shape(1);
  require_shape("indices", shape_of(indices), {tokens, -1});
  require_shape("weights", shape_of(weights), shape_of(indices));
  require_shape("w1", shape_of(w1), {-1, -1, d});
  const int64_t experts = w1.shape(0), inner = w1.shape(1);
  require_shape("w3", shape_of(w3), {experts, inner, d});
  require_shape("w2", shape_of(w2), {experts, d, inner});
  const int64_t pairs = static_cast<int64_t>(indices.size());
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t expert = indices.data()[i];
    if (expert < 0 || expert >= experts) {
      throw std::invalid_argument("expert " + std::to_string(expert) + " of " +
                                  std::to_string(experts));
    }
  }
  return {tokens, static_cast<int64_t>(indices.shape(1)), experts, d, inner, limit, low,
          indices.data(), x.data(), weights.data(), w1.data(), w2.data(), w3.data()};
}

void define_products(nb::module_& m) {
  m.def("multiply_floats", [](Matrix2 a, Matrix2 b, Matrix2 c, bool low, bool add) {
    require_shape("b", shape_of(b), {static_cast<int64_t>(a.shape(1)), -1});
    require_shape("c", shape_of(c), {static_cast<int64_t>(a.shape(0)),
                                     static_cast<int64_t>(b.shape(1))});
    if (c.shape(1) > 1 && c.stride(1) != 1) throw std::invalid_argument("c has no rows side by side");
    const MatrixProduct product{side_of("a", a), side_of("b", b), c.data(), c.stride(0),
                          static_cast<int64_t>(c.shape(0)), static_cast<int64_t>(c.shape(1)),
                          static_cast<int64_t>(a.shape(1)), add};
    alone([&] { kernels()->training.multiply(product, low); });
  }, strict("a"), strict("b"), strict("c"), nb::arg("low"), nb::arg("add"));

  m.def("experts", [](Floats x, Table indices, Floats weights, Floats w1, Floats w2, Floats w3,
                      float limit, bool low, Floats up1, Floats up3, Floats y) {
    const Routing r = routing_of(x, indices, weights, w1, w2, w3, limit, low);
    require_shape("up1", shape_of(up1), {r.pairs(), r.inner});
    require_shape("up3", shape_of(up3), {r.pairs(), r.inner});
    require_shape("y", shape_of(y), {r.tokens, r.d});
    alone([&] { kernels()->training.experts(r, up1.data(), up3.data(), y.data()); });
  }, strict("x"), strict("indices"), strict("weights"), strict("w1"), strict("w2"), strict("w3"),
     nb::arg("limit"), nb::arg("low"), strict("up1"), strict("up3"), strict("y"));
  m.def("experts_back", [](Floats x, Table indices, Floats weights, Floats w1, Floats w2, Floats w3,
                           float limit, bool low, Floats up1, Floats up3, Floats slope, Floats to_x,
                           Floats to_weights, Floats to_w1, Floats to_w2, Floats to_w3) {
    const Routing r = routing_of(x, indices, weights, w1, w2, w3, limit, low);
    require_shape("up1", shape_of(up1), {r.pairs(), r.inner});
    require_shape("up3", shape_of(up3), {r.pairs(), r.inner});
    require_shape("slope", shape_of(slope), {r.tokens, r.d});
    require_shape("to_x", shape_of(to_x), {r.tokens, r.d});
    require_shape("to_weights", shape_of(to_weights), {r.tokens, r.chosen});
    require_shape("to_w1", shape_of(to_w1), shape_of(w1));
    require_shape("to_w2", shape_of(to_w2), shape_of(w2));
    require_shape("to_w3", shape_of(to_w3), shape_of(w3));
    const RoutingSlopes to{to_x.data(), to_weights.data(), to_w1.data(), to_w2.data(), to_w3.data()};
    alone([&] {
      kernels()->training.experts_back(r, up1.data(), up3.data(), slope.data(), to);
    });
  }, strict("x"), strict("indices"), strict("weights"), strict("w1"), strict("w2"), strict("w3"),
     nb::arg("limit"), nb::arg("low"), strict("up1"), strict("up3"), strict("slope"),
     strict("to_x"), strict("to_weights"), strict("to_w1"), strict("to_w2"), strict("to_w3"));
}

Streams streams_of(const Floats& x, const Floats& fn, const Floats& scale, const Floats& base,
                   int64_t iterations, float eps, float norm_eps, bool head) {
  require_shape("x", shape_of(x), {-1, -1, -1});
  const int64_t hc = x.shape(1), d = x.shape(2);
  if (hc < 1 || hc > MAX_STREAMS) {
    throw std::invalid_argument(std::to_string(hc) + " streams, must be 1 to " +
                                std::to_string(MAX_STREAMS));
  }
  const Streams s{{hc, iterations, d, eps, norm_eps}, static_cast<int64_t>(x.shape(0)), head,
                  fn.data(), scale.data(), base.data()};
  require_shape("fn", shape_of(fn), {s.outputs(), s.width()});
  require_shape("scale", shape_of(scale), {head ? 1 : 3});
  require_shape("base", shape_of(base), {s.outputs()});
  return s;
}

HyperShape written_shape(const Floats& x, const Floats& y, const Floats& coefficients) {
  require_shape("x", shape_of(x), {-1, -1, -1});
  const int64_t tokens = x.shape(0), hc = x.shape(1), d = x.shape(2);
  if (hc < 1 || hc > MAX_STREAMS) throw std::invalid_argument("too many streams");
  require_shape("y", shape_of(y), {tokens, d});
  require_shape("coefficients", shape_of(coefficients), {tokens, (2 + hc) * hc});
  return {hc, 0, d, 0, 0};
}

void define_hyper(nb::module_& m) {
  m.def("read", [](Floats x, Floats fn, Floats scale, Floats base, int64_t iterations, float eps,
                   float norm_eps, bool head, Floats z, Floats norm, Floats coefficients, Floats u) {
    const Streams s = streams_of(x, fn, scale, base, iterations, eps, norm_eps, head);
    require_shape("z", shape_of(z), {s.tokens, s.outputs()});
    require_shape("norm", shape_of(norm), {s.tokens});
    require_shape("coefficients", shape_of(coefficients), {s.tokens, s.outputs()});
    require_shape("u", shape_of(u), {s.tokens, s.shape.d});
    alone([&] {
      kernels()->training.read(s, x.data(), z.data(), norm.data(), coefficients.data(), u.data());
    });
  }, strict("x"), strict("fn"), strict("scale"), strict("base"), nb::arg("iterations"),
     nb::arg("eps"), nb::arg("norm_eps"), nb::arg("head"), strict("z"), strict("norm"),
     strict("coefficients"), strict("u"));
  m.def("read_back", [](Floats x, Floats fn, Floats scale, Floats base, int64_t iterations,
                        float eps, float norm_eps, bool head, Floats z, Floats norm,
                        Floats coefficients, Floats of_u, std::optional<Floats> of_coefficients,
                        std::optional<Floats> of_x, Floats to_x, Floats to_fn, Floats to_scale,
                        Floats to_base) {
    const Streams s = streams_of(x, fn, scale, base, iterations, eps, norm_eps, head);
    require_shape("z", shape_of(z), {s.tokens, s.outputs()});
    require_shape("norm", shape_of(norm), {s.tokens});
    require_shape("coefficients", shape_of(coefficients), {s.tokens, s.outputs()});
    require_shape("of_u", shape_of(of_u), {s.tokens, s.shape.d});
    if (of_coefficients) {
      require_shape("of_coefficients", shape_of(*of_coefficients), {s.tokens, s.outputs()});
    }
    if (of_x) require_shape("of_x", shape_of(*of_x), shape_of(x));
    require_shape("to_x", shape_of(to_x), shape_of(x));
    require_shape("to_fn", shape_of(to_fn), shape_of(fn));
    require_shape("to_scale", shape_of(to_scale), shape_of(scale));
    require_shape("to_base", shape_of(to_base), shape_of(base));
    alone([&] {
      kernels()->training.read_back(s, x.data(), z.data(), norm.data(), coefficients.data(),
                                    of_u.data(), data_of(of_coefficients), data_of(of_x),
                                    {to_x.data(), to_fn.data(), to_scale.data(), to_base.data()});
    });
  }, strict("x"), strict("fn"), strict("scale"), strict("base"), nb::arg("iterations"),
     nb::arg("eps"), nb::arg("norm_eps"), nb::arg("head"), strict("z"), strict("norm"),
     strict("coefficients"), strict("of_u"), strict("of_coefficients").none(),
     strict("of_x").none(), strict("to_x"), strict("to_fn"), strict("to_scale"), strict("to_base"));
  m.def("write", [](Floats x, Floats y, Floats coefficients, Floats written) {
    const HyperShape s = written_shape(x, y, coefficients);
    require_shape("written", shape_of(written), shape_of(x));
    alone([&] {
      kernels()->training.write(s, x.shape(0), x.data(), y.data(), coefficients.data(),
                                written.data());
    });
  }, strict("x"), strict("y"), strict("coefficients"), strict("written"));
  m.def("write_back", [](Floats x, Floats y, Floats coefficients, Floats slope, Floats to_x,
                         Floats to_y, Floats to_coefficients) {
    const HyperShape s = written_shape(x, y, coefficients);
    require_shape("slope", shape_of(slope), shape_of(x));
    require_shape("to_x", shape_of(to_x), shape_of(x));
    require_shape("to_y", shape_of(to_y), shape_of(y));
    require_shape("to_coefficients", shape_of(to_coefficients), shape_of(coefficients));
    alone([&] {
      kernels()->training.write_back(s, x.shape(0), x.data(), y.data(), coefficients.data(),
                                     slope.data(), to_x.data(), to_y.data(),
                                     to_coefficients.data());
    });
  }, strict("x"), strict("y"), strict("coefficients"), strict("slope"), strict("to_x"),
     strict("to_y"), strict("to_coefficients"));
}

using Numbers = nb::ndarray<int32_t, nb::c_contig, nb::device::cpu>;

SparseAttention attention_of(const Floats& q, const Floats& window, const std::optional<Floats>& stored,
                             const Floats& sink, const Numbers& seen,
                             const std::optional<Numbers>& visible,
                             const std::optional<Numbers>& picked, int64_t scaled) {
  require_shape("q", shape_of(q), {-1, -1, -1, -1});
  const Shape s = shape_of(q);
  SparseAttention a{s[0], s[1], s[2], s[3]};
  if (a.c % 32 != 0) throw std::invalid_argument("channels must be a multiple of 32");
  require_shape("window", shape_of(window), {a.batch, -1, a.c});
  require_shape("sink", shape_of(sink), {a.heads});
  require_shape("seen", shape_of(seen), {a.batch, a.n, 2});
  a.scaled = scaled;
  a.keys = window.shape(1);
  a.q = q.data(), a.window = window.data(), a.sink = sink.data(), a.seen = seen.data();
  const auto within = [&](const char* what, const Numbers& of, int64_t most) {
    for (size_t i = 0; i < of.size(); ++i) {
      if (of.data()[i] > most) {
        throw std::invalid_argument(std::string(what) + " reach " + std::to_string(of.data()[i]) +
                                    " of " + std::to_string(most));
      }
    }
  };
  const auto ranges = [&](const char* what, const Numbers& of, int64_t most) {
    for (size_t i = 0; i < of.size(); ++i) {
      if (of.data()[i] < 0) throw std::invalid_argument(std::string(what) + " begin below 0");
    }
    within(what, of, most);
  };
  ranges("window rows", seen, a.keys);
  if (!stored || !visible) return a;
  require_shape("entries", shape_of(*stored), {a.batch, -1, a.c});
  require_shape("visible", shape_of(*visible), {a.batch, a.n, 2});
  a.entries = stored->shape(1);
  a.stored = stored->data(), a.visible = visible->data();
  ranges("entries", *visible, a.entries);
  if (!picked) return a;
  require_shape("picked", shape_of(*picked), {a.batch, a.n, -1});
  a.chosen = picked->shape(2);
  a.picked = picked->data();
  within("picked entries", *picked, a.entries - 1);
  return a;
}

void define_attention(nb::module_& m) {
  m.def("attend_training", [](Floats q, Floats window, std::optional<Floats> stored, Floats sink,
                              Numbers seen, std::optional<Numbers> visible,
                              std::optional<Numbers> picked, int64_t scaled, Floats o,
                              Floats levels, std::optional<Floats> mass) {
    const SparseAttention a = attention_of(q, window, stored, sink, seen, visible, picked, scaled);
    require_shape("o", shape_of(o), shape_of(q));
    require_shape("levels", shape_of(levels), {a.batch, a.n, a.heads});
    if (mass) {
      require_shape("mass", shape_of(*mass), {a.batch, a.n, a.chosen > 0 ? a.chosen : a.entries});
    }
    alone([&] { kernels()->training.attend(a, o.data(), levels.data(), data_of(mass)); });
  }, strict("q"), strict("window"), strict("stored").none(), strict("sink"), strict("seen"),
     strict("visible").none(), strict("picked").none(), nb::arg("scaled"), strict("o"),
     strict("levels"), strict("mass").none());
  m.def("attend_back", [](Floats q, Floats window, std::optional<Floats> stored, Floats sink,
                          Numbers seen, std::optional<Numbers> visible,
                          std::optional<Numbers> picked, int64_t scaled, Floats levels,
                          Floats slope, Floats to_q, Floats to_window, Floats to_entries,
                          Floats to_sink) {
    const SparseAttention a = attention_of(q, window, stored, sink, seen, visible, picked, scaled);
    require_shape("levels", shape_of(levels), {a.batch, a.n, a.heads});
    require_shape("slope", shape_of(slope), shape_of(q));
    require_shape("to_q", shape_of(to_q), shape_of(q));
    require_shape("to_window", shape_of(to_window), shape_of(window));
    require_shape("to_entries", shape_of(to_entries), {a.batch, a.entries, a.c});
    require_shape("to_sink", shape_of(to_sink), {a.heads});
    alone([&] {
      kernels()->training.attend_back(a, levels.data(), slope.data(), to_q.data(),
                                      to_window.data(), to_entries.data(), to_sink.data());
    });
  }, strict("q"), strict("window"), strict("stored").none(), strict("sink"), strict("seen"),
     strict("visible").none(), strict("picked").none(), nb::arg("scaled"), strict("levels"),
     strict("slope"), strict("to_q"), strict("to_window"), strict("to_entries"), strict("to_sink"));
}

Rows rows_of(const Floats& x, const std::optional<Floats>& weight,
             const std::optional<Floats>& angles, int64_t together, std::optional<float> eps,
             bool back) {
  require_shape("x", shape_of(x), {-1, -1});
  Rows s{static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1))};
  s.together = std::max<int64_t>(together, 1);
  s.back = back;
  s.normalises = eps.has_value();
  s.eps = eps.value_or(0.0f);
  s.weight = data_of(weight);
  s.angles = data_of(angles);
  if (weight) require_shape("weight", shape_of(*weight), {s.c});
  if (angles) {
    require_shape("angles", shape_of(*angles), {-1, -1});
    s.positions = angles->shape(0), s.rotary = angles->shape(1);
    if (s.positions < 1 || s.rotary > s.c || s.rotary % 2 != 0) {
      throw std::invalid_argument("angles of " + text(shape_of(*angles)) + " for rows of " +
                                  std::to_string(s.c));
    }
  }
  return s;
}

void define_rows(nb::module_& m) {
  m.def("rows", [](Floats x, std::optional<Floats> weight, std::optional<Floats> angles,
                   int64_t together, std::optional<float> eps, bool back, Floats y) {
    const Rows s = rows_of(x, weight, angles, together, eps, back);
    require_shape("y", shape_of(y), shape_of(x));
    alone([&] { kernels()->training.rows(s, x.data(), y.data()); });
  }, strict("x"), strict("weight").none(), strict("angles").none(), nb::arg("together"),
     nb::arg("eps").none(), nb::arg("back"), strict("y"));
  m.def("rows_back", [](Floats x, std::optional<Floats> weight, std::optional<Floats> angles,
                        int64_t together, std::optional<float> eps, bool back, Floats slope,
                        Floats to_x, std::optional<Floats> to_weight) {
    const Rows s = rows_of(x, weight, angles, together, eps, back);
    require_shape("slope", shape_of(slope), shape_of(x));
    require_shape("to_x", shape_of(to_x), shape_of(x));
    if (to_weight) require_shape("to_weight", shape_of(*to_weight), {s.c});
    alone([&] {
      kernels()->training.rows_back(s, x.data(), slope.data(), to_x.data(), data_of(to_weight));
    });
  }, strict("x"), strict("weight").none(), strict("angles").none(), nb::arg("together"),
     nb::arg("eps").none(), nb::arg("back"), strict("slope"), strict("to_x"),
     strict("to_weight").none());
  m.def("surprise", [](Floats logits, Table targets, float factor, Floats losses) {
    require_shape("logits", shape_of(logits), {-1, -1});
    const Shape s = shape_of(logits);
    require_shape("targets", shape_of(targets), {s[0]});
    require_shape("losses", shape_of(losses), {s[0]});
    for (int64_t i = 0; i < s[0]; ++i) {
      if (targets.data()[i] >= s[1]) {
        throw std::invalid_argument("target " + std::to_string(targets.data()[i]) + " of " +
                                    std::to_string(s[1]));
      }
    }
    alone([&] {
      kernels()->training.surprise(s[0], s[1], targets.data(), factor, logits.data(),
                                   losses.data());
    });
  }, strict("logits"), strict("targets"), nb::arg("factor"), strict("losses"));
  m.def("pool", [](Floats values, Floats scores, Floats y) {
    require_shape("values", shape_of(values), {-1, -1, -1});
    const Shape s = shape_of(values);
    require_shape("scores", shape_of(scores), s);
    require_shape("y", shape_of(y), {s[0], s[2]});
    if (s[1] < 1) throw std::invalid_argument("blocks of nothing");
    alone([&] {
      kernels()->training.pool(s[0], s[1], s[2], values.data(), scores.data(), y.data());
    });
  }, strict("values"), strict("scores"), strict("y"));
  m.def("pool_back", [](Floats values, Floats scores, Floats y, Floats slope, Floats to_values,
                        Floats to_scores) {
    require_shape("values", shape_of(values), {-1, -1, -1});
    const Shape s = shape_of(values);
    require_shape("scores", shape_of(scores), s);
    require_shape("y", shape_of(y), {s[0], s[2]});
    require_shape("slope", shape_of(slope), {s[0], s[2]});
    require_shape("to_values", shape_of(to_values), s);
    require_shape("to_scores", shape_of(to_scores), s);
    if (s[1] < 1) throw std::invalid_argument("blocks of nothing");
    alone([&] {
      kernels()->training.pool_back(s[0], s[1], s[2], values.data(), scores.data(), y.data(),
                                    slope.data(), to_values.data(), to_scores.data());
    });
  }, strict("values"), strict("scores"), strict("y"), strict("slope"), strict("to_values"),
     strict("to_scores"));
}

void define_adam(nb::module_& m) {
  m.def("adam", [](Floats slope, Floats weight, Floats mean, Floats square, float keep, float beta1,
                   float beta2, float rate, float root, float eps) {
    for (const auto& [what, array] : {std::pair{"weight", &weight}, {"mean", &mean}, {"square", &square}}) {
      require_shape(what, shape_of(*array), shape_of(slope));
    }
    alone([&] {
      kernels()->training.adam({keep, beta1, beta2, rate, root, eps},
                               static_cast<int64_t>(slope.size()), slope.data(), weight.data(),
                               mean.data(), square.data());
    });
  }, strict("slope"), strict("weight"), strict("mean"), strict("square"), nb::arg("keep"),
     nb::arg("beta1"), nb::arg("beta2"), nb::arg("rate"), nb::arg("root"), nb::arg("eps"));
}

}  // namespace

void define_training(nb::module_& m) {
  define_products(m);
  define_hyper(m);
  define_attention(m);
  define_rows(m);
  define_adam(m);
}

}  // namespace dsv4
