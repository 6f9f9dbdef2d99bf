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

}  // namespace

void define_training(nb::module_& m) {
  define_products(m);
  define_hyper(m);
}

}  // namespace dsv4
