// The Python module dsv4._native: layers made of tensors that Python owns, and calls on them.
//
// All tensors come in through DLPack, and nothing is read before its shape has been looked at:
// weights and cache stores once, the streams of a forward once for all of its layers.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "alone.h"
#include "library_lines.h"
#include "owned.h"
#include "pool.h"
#include "sublayers.h"

using namespace dsv4;

namespace {

constexpr int MAX_THREADS = 1024;

float* floats_of(const dsv4::Tensor& x, const char* what, std::initializer_list<int64_t> shape) {
  return static_cast<float*>(x.checked(what, nb::dtype<float>(), shape));
}

void require_token(int64_t id, int64_t vocabulary) {
  if (id < 0 || id >= vocabulary) {
    throw std::invalid_argument("token id " + std::to_string(id) + " is outside the vocabulary of " +
                                std::to_string(vocabulary));
  }
}

using Numbers = nb::ndarray<int32_t, nb::c_contig, nb::device::cpu>;

Draws draws_of(Floats logits, Table counts, Numbers ids, Doubles weights) {
  require_shape("logits", shape_of(logits), {-1, -1});
  const int64_t rows = logits.shape(0), vocabulary = logits.shape(1);
  require_shape("counts", shape_of(counts), {rows});
  int64_t sum = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t count = counts.data()[row];
    if (count < 1 || count > vocabulary) {
      throw std::invalid_argument(std::to_string(count) + " tokens of " + std::to_string(vocabulary));
    }
    sum += count;
  }
  require_shape("ids", shape_of(ids), {sum});
  require_shape("weights", shape_of(weights), {sum});
  Draws draws{};
  draws.rows = rows, draws.vocabulary = vocabulary, draws.logits = logits.data();
  draws.counts = counts.data(), draws.ids = ids.data(), draws.weights = weights.data();
  return draws;
}

}  // namespace

NB_MODULE(_native, m) {
  m.attr("ABI") = 11;  // raised here and in ops/native.py whenever a name or an argument changes

  nb::class_<OwnedMatrix>(m, "Matrix")
      .def(nb::init<const std::string&, int64_t, int64_t, Bytes, std::optional<Bytes>,
                    std::optional<Floats>>(),
           nb::arg("format"), nb::arg("rows"), nb::arg("columns"), strict("data"),
           strict("fp4_scale") = nb::none(),
           strict("fp8_scale") = nb::none())
      .def("multiply", [](const OwnedMatrix& w, Floats x, Floats y, bool low) {
        require_shape("x", shape_of(x), {-1, w.matrix.columns});
        require_shape("y", shape_of(y), {static_cast<int64_t>(x.shape(0)), w.matrix.rows});
        const bool packed = w.matrix.format == Format::FP8 || w.matrix.format == Format::FP4;
        if (packed && !low) throw std::invalid_argument("a packed matrix takes rounded operands");
        alone([&] {
          kernels()->multiply(w.matrix, x.data(), static_cast<int64_t>(x.shape(0)), low, y.data());
        });
      }, strict("x"), strict("y"), nb::arg("low"));

  using OwnedLayer = Owned<Layer>;

  nb::class_<OwnedSpan>(m, "Span")
      .def(nb::init<int64_t, std::vector<int64_t>, std::vector<int64_t>, std::vector<int64_t>,
                    const std::vector<nb::object>&, std::vector<int64_t>, bool>(),
           nb::arg("columns"), nb::arg("starts"), nb::arg("lengths"), nb::arg("slots"),
           nb::arg("tables"), nb::arg("known"), nb::arg("block") = false);

  nb::class_<dsv4::Tensor>(m, "Tensor")
      .def("__init__", [](dsv4::Tensor* self, nb::ndarray<> array) {
        new (self) dsv4::Tensor{std::move(array)};
      }, strict("array"));

  nb::class_<OwnedState>(m, "LayerState")
      .def(nb::init<const OwnedLayer&, Bytes, std::optional<Bytes>, std::optional<Floats>,
                    std::optional<Bytes>, std::optional<Floats>>(),
           nb::keep_alive<1, 2>(), nb::arg("layer"), strict("window"),
           strict("entries").none(), strict("tail").none(),
           strict("keys").none(), strict("index_tail").none());

  nb::class_<OwnedResidency>(m, "Residency")
      .def(nb::init<int64_t, int64_t, const Places&>(),
           nb::arg("cap"), nb::arg("fixed"), nb::arg("mapped"))
      .def("add", &OwnedResidency::add, nb::arg("matrix"))
      .def("spare", [](OwnedResidency& r, Bytes bytes) {
        r.value.spare(OwnedResidency::region(bytes.data(), bytes.nbytes()));
        r.kept.push_back(nb::cast(bytes));
      }, strict("bytes"))
      .def_prop_ro("held", [](const OwnedResidency& r) { return r.value.held(); })
      .def_prop_ro("most_held", [](const OwnedResidency& r) { return r.value.most_held(); });

  nb::class_<OwnedLayer>(m, "Layer")
      .def("__init__", [](OwnedLayer* self, bool exact) {
        new (self) OwnedLayer{};
        self->value.exact = exact;
      }, nb::arg("exact"))
      .def("integer", [](OwnedLayer& l, const std::string& name, int64_t value) {
        integer_of(l.value, name) = value;
      })
      .def("number", [](OwnedLayer& l, const std::string& name, float value) {
        number_of(l.value, name) = value;
      })
      .def("vector", [](OwnedLayer& l, const std::string& name, Floats values) {
        vector_of(l.value, name) = values.data();
        l.sizes[name] = static_cast<int64_t>(values.size());
        l.kept.push_back(nb::cast(values));
      }, nb::arg("name"), strict("values"))
      .def("matrix", [](OwnedLayer& l, const std::string& name, nb::object matrix) {
        matrix_of(l.value, name) = nb::cast<OwnedMatrix&>(matrix).matrix;
        l.kept.push_back(std::move(matrix));
      })
      .def("table", [](OwnedLayer& l, Table table) {
        require_shape("tid2eid", shape_of(table), {-1, l.value.mixture.chosen});
        l.value.mixture.table = table.data();
        l.value.mixture.vocabulary = static_cast<int64_t>(table.shape(0));
        l.kept.push_back(nb::cast(table));
      }, strict("table"))
      .def("expert", [](OwnedLayer& l, nb::object w1, nb::object w2, nb::object w3) {
        Mixture& x = l.value.mixture;
        x.w1.push_back(nb::cast<OwnedMatrix&>(w1).matrix);
        x.w2.push_back(nb::cast<OwnedMatrix&>(w2).matrix);
        x.w3.push_back(nb::cast<OwnedMatrix&>(w3).matrix);
        for (auto* w : {&w1, &w2, &w3}) l.kept.push_back(std::move(*w));
      })
      .def("residency", [](OwnedLayer& l, nb::object residency) {
        l.value.mixture.residency = &nb::cast<OwnedResidency&>(residency).value;
        l.kept.push_back(std::move(residency));
      })
      .def("complete", [](OwnedLayer& l) { complete(l.value, l.sizes); })
      .def("attend", [](const OwnedLayer& l, const OwnedState& state, const OwnedSpan& span,
                        const dsv4::Tensor& x) {
        state.check(l.value, span);
        void* streams = streams_of(x, l.value.exact, span.batch, span.columns, l.value.shape);
        alone([&] { kernels()->attend(l.value, state.value, span.value, streams); });
      })
      .def("remember", [](const OwnedLayer& l, const OwnedState& state, const OwnedSpan& span,
                          const dsv4::Tensor& x) {
        state.check(l.value, span);
        if (span.block) throw std::invalid_argument("a drafted block is never stored");
        const void* rows = x.checked("the rows", floating(l.value.exact),
                                     {span.batch, span.columns, l.value.shape.d});
        alone([&] { kernels()->remember(l.value, state.value, span.value, rows); });
      })
      .def("mix", [](const OwnedLayer& l, const OwnedSpan& span, const dsv4::Tensor& ids,
                     const dsv4::Tensor& x) {
        const auto* tokens = static_cast<const int64_t*>(
            ids.checked("the ids", nb::dtype<int64_t>(), {span.batch, span.columns}));
        void* streams = streams_of(x, l.value.exact, span.batch, span.columns, l.value.shape);
        alone([&] { kernels()->mix(l.value, span.value, tokens, streams); });
      });

  using OwnedHead = Owned<Head>;
  nb::class_<OwnedHead>(m, "Head")
      .def("__init__", [](OwnedHead* self, bool exact, int64_t streams, int64_t d, float eps,
                          float norm_eps, nb::object fn, Floats scale, Floats base, Floats norm,
                          nb::object weight) {
        new (self) OwnedHead{};
        Head& h = self->value;
        h.exact = exact;
        h.shape = {streams, 0, d, eps, norm_eps};
        h.hyper = {nb::cast<OwnedMatrix&>(fn).matrix, scale.data(), base.data()};
        h.norm = norm.data();
        h.weight = nb::cast<OwnedMatrix&>(weight).matrix;
        require_matrix("hc_head_fn", h.hyper.fn, streams, streams * d);
        require_matrix("head", h.weight, h.weight.rows, d);
        require_shape("hc_head_scale", shape_of(scale), {1});
        require_shape("hc_head_base", shape_of(base), {streams});
        require_shape("norm", shape_of(norm), {d});
        self->kept = {fn, nb::cast(scale), nb::cast(base), nb::cast(norm), weight};
      }, nb::arg("exact"), nb::arg("streams"), nb::arg("d"), nb::arg("eps"), nb::arg("norm_eps"),
         nb::arg("fn"), strict("scale"), strict("base"),
         strict("norm"), nb::arg("weight"))
      .def("logits", [](const OwnedHead& h, const dsv4::Tensor& x, const dsv4::Tensor& logits,
                        const dsv4::Tensor* hidden) {
        const int64_t b = x.size(0, 4), n = x.size(1, 4);
        void* streams = streams_of(x, h.value.exact, b, n, h.value.shape);
        float* out = floats_of(logits, "the logits", {b, n, h.value.weight.rows});
        float* rows = hidden ? floats_of(*hidden, "the rows", {b, n, h.value.shape.d}) : nullptr;
        alone([&] { kernels()->logits(h.value, streams, b * n, rows, out); });
      }, nb::arg("x"), nb::arg("logits"), nb::arg("hidden").none() = nb::none());

  using OwnedContext = Owned<Context>;
  nb::class_<OwnedContext>(m, "Context")
      .def("__init__", [](OwnedContext* self, bool exact, float eps, nb::object proj, Floats norm) {
        const Matrix w = nb::cast<OwnedMatrix&>(proj).matrix;
        require_shape("main_norm", shape_of(norm), {w.rows});
        new (self) OwnedContext{{exact, w, norm.data(), eps}, {}, {proj, nb::cast(norm)}};
      }, nb::arg("exact"), nb::arg("eps"), nb::arg("proj"), strict("norm"))
      .def("rows", [](const OwnedContext& c, const OwnedSpan& span, const dsv4::Tensor& hidden,
                      const dsv4::Tensor& x) {
        const Matrix& w = c.value.proj;
        const auto dtype = floating(c.value.exact);
        const void* means = hidden.checked("the means", dtype, {span.batch, span.columns, w.columns});
        void* rows = x.checked("the rows", dtype, {span.batch, span.columns, w.rows});
        alone([&] { kernels()->context(c.value, span.value, means, rows); });
      });

  using OwnedJoint = Owned<Joint>;
  nb::class_<OwnedJoint>(m, "Joint")
      .def("__init__", [](OwnedJoint* self, bool exact, int64_t streams, float eps,
                          nb::object e_proj, nb::object h_proj, Floats enorm, Floats hnorm) {
        const Matrix e = nb::cast<OwnedMatrix&>(e_proj).matrix;
        const Matrix h = nb::cast<OwnedMatrix&>(h_proj).matrix;
        require_matrix("e_proj", e, e.rows, e.rows);
        require_matrix("h_proj", h, e.rows, e.rows);
        require_shape("enorm", shape_of(enorm), {e.rows});
        require_shape("hnorm", shape_of(hnorm), {e.rows});
        new (self) OwnedJoint{{exact, streams, e, h, enorm.data(), hnorm.data(), eps},
                              {},
                              {e_proj, h_proj, nb::cast(enorm), nb::cast(hnorm)}};
      }, nb::arg("exact"), nb::arg("streams"), nb::arg("eps"), nb::arg("e_proj"),
         nb::arg("h_proj"), strict("enorm"), strict("hnorm"))
      .def("rows", [](const OwnedJoint& j, const OwnedSpan& span, const dsv4::Tensor& embedded,
                      const dsv4::Tensor& streams, const dsv4::Tensor& x) {
        const int64_t b = span.batch, n = span.columns, hc = j.value.streams, d = j.value.e_proj.rows;
        const auto dtype = floating(j.value.exact);
        const void* e = embedded.checked("the embedded ids", dtype, {b, n, d});
        const void* h = streams.checked("the streams", dtype, {b, n, hc, d});
        void* rows = x.checked("the rows", dtype, {b, n, hc, d});
        alone([&] { kernels()->join(j.value, span.value, e, h, rows); });
      });

  using OwnedMarkov = Owned<Markov>;
  nb::class_<OwnedMarkov>(m, "Markov")
      .def("__init__", [](OwnedMarkov* self, nb::object w1, nb::object w2, nb::object sure) {
        const Markov made{nb::cast<OwnedMatrix&>(w1).matrix, nb::cast<OwnedMatrix&>(w2).matrix,
                          nb::cast<OwnedMatrix&>(sure).matrix};
        require_matrix("markov_w2", made.w2, made.w1.rows, made.w1.columns);
        require_matrix("confidence_head", made.sure, 1,
                       std::max(made.sure.columns, made.w1.columns + 1));
        require_floats("markov_w1", made.w1);
        require_floats("markov_w2", made.w2);
        require_floats("confidence_head", made.sure);
        new (self) OwnedMarkov{made, {}, {w1, w2, sure}};
      }, nb::arg("w1"), nb::arg("w2"), nb::arg("sure"))
      .def("correct", [](const OwnedMarkov& m, const dsv4::Tensor& tokens, int64_t k,
                         const dsv4::Tensor& hidden, const dsv4::Tensor& logits,
                         const dsv4::Tensor& corrected, const dsv4::Tensor& confidence) {
        const int64_t b = logits.size(0, 3), n = logits.size(1, 3), vocabulary = m.value.w2.rows;
        const float* base = floats_of(logits, "the logits", {b, n, vocabulary});
        const float* rows =
            floats_of(hidden, "the rows", {b, n, m.value.sure.columns - m.value.w1.columns});
        const auto* ids =
            static_cast<const int64_t*>(tokens.checked("the ids", nb::dtype<int64_t>(), {b}));
        float* out = floats_of(corrected, "the corrected logits", {b, vocabulary});
        float* sure = floats_of(confidence, "the confidence", {b});
        if (k < 0 || k >= n) throw std::invalid_argument("row " + std::to_string(k) + " of a block");
        for (int64_t i = 0; i < b; ++i) require_token(ids[i], vocabulary);
        alone([&] { kernels()->markov(m.value, ids, b, n, k, rows, base, out, sure); });
      });

  m.def("survey", [](Floats logits, Floats lowest, Floats highest, Table best) {
    require_shape("logits", shape_of(logits), {-1, -1});
    const int64_t rows = logits.shape(0), vocabulary = logits.shape(1);
    if (vocabulary < 1) throw std::invalid_argument("there are no logits");
    require_shape("lowest", shape_of(lowest), {rows});
    require_shape("highest", shape_of(highest), {rows});
    require_shape("best", shape_of(best), {rows});
    alone([&] {
      kernels()->survey(logits.data(), rows, vocabulary, lowest.data(), highest.data(), best.data());
    });
  }, strict("logits"), strict("lowest"), strict("highest"), strict("best"));
  m.def("weigh", [](Floats logits, Table counts, Numbers ids, Doubles weights, Doubles temperatures) {
    Draws draws = draws_of(logits, counts, ids, weights);
    require_shape("temperatures", shape_of(temperatures), {draws.rows});
    draws.temperatures = temperatures.data();
    alone([&] { kernels()->weigh(draws); });
  }, strict("logits"), strict("counts"), strict("ids"), strict("weights"), strict("temperatures"));
  m.def("pick", [](Floats logits, Table counts, Numbers ids, Doubles weights, Doubles top_p,
                   Doubles min_p, Doubles uniforms, Table chosen) {
    Draws draws = draws_of(logits, counts, ids, weights);
    require_shape("top_p", shape_of(top_p), {draws.rows});
    require_shape("min_p", shape_of(min_p), {draws.rows});
    require_shape("uniforms", shape_of(uniforms), {draws.rows});
    require_shape("chosen", shape_of(chosen), {draws.rows});
    draws.top_p = top_p.data(), draws.min_p = min_p.data(), draws.uniforms = uniforms.data();
    alone([&] { kernels()->pick(draws, chosen.data()); });
  }, strict("logits"), strict("counts"), strict("ids"), strict("weights"), strict("top_p"),
     strict("min_p"), strict("uniforms"), strict("chosen"));

  m.def("attend_keys", [](Floats q, Floats keys, Floats sink, bool low, Floats o) {
    require_shape("q", shape_of(q), {-1, -1});
    require_shape("keys", shape_of(keys), {-1, shape_of(q)[1]});
    require_shape("sink", shape_of(sink), {shape_of(q)[0]});
    require_shape("o", shape_of(o), shape_of(q));
    alone([&] {
      kernels()->attend_keys(q.data(), q.shape(0), q.shape(1), keys.data(), keys.shape(0),
                             sink.data(), low, o.data());
    });
  }, strict("q"), strict("keys"), strict("sink"), nb::arg("low"), strict("o"));
  m.def("choose", [](Floats q, Floats weights, Bytes keys, int64_t k,
                     nb::ndarray<uint16_t, nb::c_contig, nb::device::cpu> ranks,
                     nb::ndarray<int32_t, nb::c_contig, nb::device::cpu> chosen) {
    require_shape("q", shape_of(q), {-1, -1});
    require_shape("weights", shape_of(weights), {shape_of(q)[0]});
    require_shape("keys", shape_of(keys), {-1, key_bytes(shape_of(q)[1])});
    require_shape("ranks", shape_of(ranks), {shape_of(keys)[0]});
    require_shape("chosen", shape_of(chosen), {k});
    if (k > shape_of(keys)[0]) throw std::invalid_argument("more to choose than there are keys");
    alone([&] {
      kernels()->choose(q.data(), weights.data(), q.shape(0), q.shape(1), keys.data(),
                        keys.shape(0), k, ranks.data(), chosen.data());
    });
  }, strict("q"), strict("weights"), strict("keys"),
     nb::arg("k"), strict("ranks"), strict("chosen"));
  m.def("collapse", [](const OwnedMatrix& fn, Floats scale, Floats base, int64_t iterations,
                       float eps, float norm_eps, Floats x, Floats coefficients, Floats u) {
    require_shape("x", shape_of(x), {-1, -1, -1});
    const Shape sizes = shape_of(x);  // tokens, hc, d
    const int64_t outputs = (2 + sizes[1]) * sizes[1];
    require_matrix("fn", fn.matrix, outputs, sizes[1] * sizes[2]);
    require_shape("scale", shape_of(scale), {3});
    require_shape("base", shape_of(base), {outputs});
    require_shape("coefficients", shape_of(coefficients), {sizes[0], outputs});
    require_shape("u", shape_of(u), {sizes[0], sizes[2]});
    const HyperShape shape{static_cast<int64_t>(x.shape(1)), iterations,
                           static_cast<int64_t>(x.shape(2)), eps, norm_eps};
    alone([&] {
      kernels()->hyper(shape, {fn.matrix, scale.data(), base.data()}, x.data(), x.shape(0),
                       coefficients.data(), u.data());
    });
  }, nb::arg("fn"), strict("scale"), strict("base"), nb::arg("iterations"),
     nb::arg("eps"), nb::arg("norm_eps"), strict("x"),
     strict("coefficients"), strict("u"));
  m.def("entries", [](Floats x, int64_t rotary, Bytes packed, Floats back) {
    require_shape("x", shape_of(x), {-1, -1});
    const Shape sizes = shape_of(x);
    require_shape("packed", shape_of(packed), {sizes[0], entry_bytes(sizes[1], rotary)});
    require_shape("back", shape_of(back), sizes);
    if (rotary < 0 || rotary > sizes[1]) throw std::invalid_argument("more rotary channels than all");
    kernels()->entries(x.data(), x.shape(0), x.shape(1), rotary, packed.data(), back.data());
  }, strict("x"), nb::arg("rotary"), strict("packed"), strict("back"));
  m.def("keys", [](Floats x, Bytes packed, Floats back) {
    require_shape("x", shape_of(x), {-1, -1});
    require_shape("packed", shape_of(packed), {shape_of(x)[0], key_bytes(shape_of(x)[1])});
    require_shape("back", shape_of(back), shape_of(x));
    kernels()->keys(x.data(), x.shape(0), x.shape(1), packed.data(), back.data());
  }, strict("x"), strict("packed"), strict("back"));
  m.def("set_threads", [](int threads) {
    if (threads < 1 || threads > MAX_THREADS) {
      throw std::invalid_argument(std::to_string(threads) + " threads, must be 1 to " +
                                  std::to_string(MAX_THREADS));
    }
    alone([&] { set_threads(threads); });
  });
  survive_forks();
  define_training(m);
  m.def("keep_library_lines", &keep_library_lines);
  m.def("take_library_lines", &take_library_lines);
  m.def("kernels", [] { return std::string(kernels()->name); });
  m.def("kernel_names", &kernel_names);
  m.def("choose_kernels", &choose_kernels);
}
