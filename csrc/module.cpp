// The Python module dsv4._native: layers made of tensors that Python owns, and calls on them.
//
// Weights and cache stores come in once, through DLPack, as bytes or floats; the streams of a call
// come as an address, since importing a tensor costs more than a small layer's step.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>

#include "residency.h"
#include "sublayers.h"

namespace nb = nanobind;
using namespace dsv4;

namespace {

using Bytes = nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>;

std::mutex running;  // the pool and its memory serve one call at a time

template <class F>
auto alone(F&& body) {
  nb::gil_scoped_release free;
  std::lock_guard<std::mutex> lock(running);
  return body();
}

struct OwnedMatrix {
  Matrix matrix;
  Bytes data;
  std::optional<Bytes> bytes;
  std::optional<Floats> floats;

  OwnedMatrix(const std::string& format, int64_t rows, int64_t columns, Bytes data,
              std::optional<Bytes> fp4_scale, std::optional<Floats> fp8_scale)
      : data(data), bytes(fp4_scale), floats(fp8_scale) {
    static const std::map<std::string, Format> formats{
        {"f32", Format::F32}, {"bf16", Format::BF16}, {"fp8", Format::FP8}, {"fp4", Format::FP4}};
    matrix.format = formats.at(format);
    matrix.rows = rows;
    matrix.columns = columns;
    matrix.data = this->data.data();
    require(data.nbytes(), rows * matrix.row_bytes(), "bytes of the weight");
    if (matrix.format == Format::FP8) {
      const int64_t down = (rows + FP8_BLOCK - 1) / FP8_BLOCK;
      const int64_t across = (columns + FP8_BLOCK - 1) / FP8_BLOCK;
      require(floats ? floats->size() : 0, down * across, "FP8 scales");
      matrix.fp8_scale = floats->data();
    }
    if (matrix.format == Format::FP4) {
      require(columns % FP4_BLOCK, 0, "columns beyond whole FP4 blocks");
      require(bytes ? bytes->size() : 0, rows * columns / FP4_BLOCK, "FP4 scales");
      matrix.fp4_scale = bytes->data();
    }
  }
  static void require(size_t found, int64_t wanted, const char* what) {
    if (static_cast<int64_t>(found) != wanted) {
      throw std::invalid_argument(std::to_string(found) + " " + what + ", must be " +
                                  std::to_string(wanted));
    }
  }
};

using Places = std::vector<std::pair<uintptr_t, int64_t>>;  // addresses and bytes
using Tables = Places;                                      // addresses and pages

struct OwnedResidency {
  Residency value;
  std::vector<nb::object> kept;  // the files stay mapped as long as their pages may be given back

  OwnedResidency(int64_t cap, int64_t fixed, const Places& files)
      : value(cap, fixed, regions(files)) {}
  static Region region(const void* data, size_t bytes) {
    const auto first = reinterpret_cast<uintptr_t>(data);
    return {first, first + bytes};
  }
  static std::vector<Region> regions(const Places& files) {
    std::vector<Region> found;
    for (const auto& [first, bytes] : files) found.push_back({first, first + bytes});
    return found;
  }
  void add(nb::object matrix) {
    OwnedMatrix& w = nb::cast<OwnedMatrix&>(matrix);
    std::vector<Region> parts{region(w.data.data(), w.data.nbytes())};
    if (w.bytes) parts.push_back(region(w.bytes->data(), w.bytes->nbytes()));
    w.matrix.unit = value.add(parts);
    kept.push_back(std::move(matrix));
  }
};

// A struct whose fields are set by name, and what keeps their tensors alive.
template <class T>
struct Owned {
  T value;
  std::vector<nb::object> kept;
};

template <class T, class M>
M& named(T& object, const std::map<std::string, std::function<M&(T&)>>& fields,
         const std::string& name) {
  const auto found = fields.find(name);
  if (found == fields.end()) throw std::invalid_argument("no field " + name);
  return found->second(object);
}

#define FIELD(name, path) \
  { name, [](Layer& l) -> auto& { return l.path; } }

int64_t& integer(Layer& layer, const std::string& name) {
  static const std::map<std::string, std::function<int64_t&(Layer&)>> fields{
      FIELD("hc_mult", shape.streams),
      FIELD("hc_sinkhorn_iters", shape.iterations),
      FIELD("hidden_size", shape.d),
      FIELD("num_attention_heads", attention.heads),
      FIELD("head_dim", attention.channels),
      FIELD("qk_rope_head_dim", attention.rotary),
      FIELD("q_lora_rank", attention.q_rank),
      FIELD("o_groups", attention.groups),
      FIELD("o_lora_rank", attention.o_rank),
      FIELD("sliding_window", attention.window),
      FIELD("compress_ratio", attention.ratio),
      FIELD("index_n_heads", attention.index_heads),
      FIELD("index_head_dim", attention.index_channels),
      FIELD("index_topk", attention.topk),
      FIELD("n_routed_experts", mixture.experts),
      FIELD("num_experts_per_tok", mixture.chosen),
      FIELD("moe_intermediate_size", mixture.inner),
  };
  return named<Layer, int64_t>(layer, fields, name);
}

float& number(Layer& layer, const std::string& name) {
  static const std::map<std::string, std::function<float&(Layer&)>> fields{
      FIELD("hc_eps", shape.eps),
      FIELD("rms_norm_eps", shape.norm_eps),
      FIELD("swiglu_limit", mixture.limit),
      FIELD("routed_scaling_factor", mixture.scaling),
  };
  return named<Layer, float>(layer, fields, name);
}

const float*& vector_of(Layer& layer, const std::string& name) {
  static const std::map<std::string, std::function<const float*&(Layer&)>> fields{
      FIELD("freqs", attention.frequencies),
      FIELD("attn_norm", attention.norm),
      FIELD("q_norm", attention.q_norm),
      FIELD("kv_norm", attention.kv_norm),
      FIELD("attn_sink", attention.sink),
      FIELD("compressor.ape", attention.compressor.ape),
      FIELD("compressor.norm", attention.compressor.norm),
      FIELD("indexer.compressor.ape", attention.index_compressor.ape),
      FIELD("indexer.compressor.norm", attention.index_compressor.norm),
      FIELD("hc_attn_scale", attention.hyper.scale),
      FIELD("hc_attn_base", attention.hyper.base),
      FIELD("hc_ffn_scale", mixture.hyper.scale),
      FIELD("hc_ffn_base", mixture.hyper.base),
      FIELD("ffn_norm", mixture.norm),
      FIELD("gate.bias", mixture.bias),
  };
  return named<Layer, const float*>(layer, fields, name);
}

Matrix& matrix_of(Layer& layer, const std::string& name) {
  static const std::map<std::string, std::function<Matrix&(Layer&)>> fields{
      FIELD("wq_a", attention.wq_a),
      FIELD("wq_b", attention.wq_b),
      FIELD("wkv", attention.wkv),
      FIELD("wo_a", attention.wo_a),
      FIELD("wo_b", attention.wo_b),
      FIELD("compressor.wkv", attention.compressor.wkv),
      FIELD("compressor.wgate", attention.compressor.wgate),
      FIELD("indexer.wq_b", attention.index_wq_b),
      FIELD("indexer.weights_proj", attention.index_weights),
      FIELD("indexer.compressor.wkv", attention.index_compressor.wkv),
      FIELD("indexer.compressor.wgate", attention.index_compressor.wgate),
      FIELD("hc_attn_fn", attention.hyper.fn),
      FIELD("hc_ffn_fn", mixture.hyper.fn),
      FIELD("gate", mixture.gate),
      FIELD("shared_experts.w1", mixture.shared1),
      FIELD("shared_experts.w2", mixture.shared2),
      FIELD("shared_experts.w3", mixture.shared3),
  };
  return named<Layer, Matrix>(layer, fields, name);
}

#undef FIELD

// Derived fields, once everything is set.
void complete(Layer& layer) {
  Attention& a = layer.attention;
  const auto share = [&](Compressor& c, int64_t channels, bool overlaps, bool is_key) {
    c.ratio = a.ratio;
    c.channels = channels;
    c.rotary = a.rotary;
    c.overlaps = overlaps;
    c.is_key = is_key;
    c.frequencies = a.frequencies;
    c.eps = layer.shape.norm_eps;
  };
  share(a.compressor, a.channels, a.index_heads > 0, false);
  share(a.index_compressor, a.index_channels, true, true);
}

template <class T, class Array>
Ring<T> ring_of(const std::optional<Array>& array) {
  if (!array) return {};
  if (array->ndim() != 3) throw std::invalid_argument("a ring has three axes");
  return {array->data(), static_cast<int64_t>(array->shape(0)),
          static_cast<int64_t>(array->shape(1)), static_cast<int64_t>(array->shape(2))};
}

Paged paged_of(const std::optional<Bytes>& array) {
  if (!array) return {};
  if (array->ndim() != 3) throw std::invalid_argument("a store of pages has three axes");
  return {array->data(), static_cast<int64_t>(array->shape(0)),
          static_cast<int64_t>(array->shape(1)), static_cast<int64_t>(array->shape(2))};
}

struct OwnedState {
  LayerState value;
  Bytes window;
  std::optional<Bytes> entries, keys;
  std::optional<Floats> tail, index_tail;

  OwnedState(Bytes window, std::optional<Bytes> entries, std::optional<Floats> tail,
             std::optional<Bytes> keys, std::optional<Floats> index_tail)
      : window(window), entries(entries), keys(keys), tail(tail), index_tail(index_tail) {
    value.window = ring_of<uint8_t>(std::optional<Bytes>(window));
    value.entries = paged_of(entries);
    value.keys = paged_of(keys);
    value.tail = ring_of<float>(tail);
    value.index_tail = ring_of<float>(index_tail);
  }
};

template <class T>
T* address(uintptr_t a) {
  return reinterpret_cast<T*>(a);
}

}  // namespace

NB_MODULE(_native, m) {
  m.attr("ABI") = 1;  // raised here and in ops/native.py whenever a name or an argument changes

  nb::class_<OwnedMatrix>(m, "Matrix")
      .def(nb::init<const std::string&, int64_t, int64_t, Bytes, std::optional<Bytes>,
                    std::optional<Floats>>(),
           nb::arg("format"), nb::arg("rows"), nb::arg("columns"), nb::arg("data"),
           nb::arg("fp4_scale") = nb::none(), nb::arg("fp8_scale") = nb::none())
      .def("multiply", [](const OwnedMatrix& w, Floats x, Floats y, bool low) {
        alone([&] {
          kernels()->multiply(w.matrix, x.data(), static_cast<int64_t>(x.shape(0)), low, y.data());
        });
      }, nb::arg("x"), nb::arg("y"), nb::arg("low"));

  nb::class_<Span>(m, "Span")
      .def("__init__", [](Span* span, int64_t columns, const std::vector<int64_t>& starts,
                          const std::vector<int64_t>& lengths, const std::vector<int64_t>& slots,
                          const Tables& tables) {
        std::vector<Place> places;
        for (size_t b = 0; b < slots.size(); ++b) {
          places.push_back({slots[b], address<const int32_t>(tables[b].first), tables[b].second});
        }
        new (span) Span(columns, starts, lengths, places);
      }, nb::arg("columns"), nb::arg("starts"), nb::arg("lengths"), nb::arg("slots"),
         nb::arg("tables"));

  nb::class_<OwnedState>(m, "LayerState")
      .def(nb::init<Bytes, std::optional<Bytes>, std::optional<Floats>, std::optional<Bytes>,
                    std::optional<Floats>>(),
           nb::arg("window"), nb::arg("entries").none(), nb::arg("tail").none(),
           nb::arg("keys").none(), nb::arg("index_tail").none());

  nb::class_<OwnedResidency>(m, "Residency")
      .def(nb::init<int64_t, int64_t, const Places&>(),
           nb::arg("cap"), nb::arg("fixed"), nb::arg("mapped"))
      .def("add", &OwnedResidency::add, nb::arg("matrix"))
      .def("spare", [](OwnedResidency& r, Bytes bytes) {
        r.value.spare(OwnedResidency::region(bytes.data(), bytes.nbytes()));
        r.kept.push_back(nb::cast(bytes));
      }, nb::arg("bytes"))
      .def_prop_ro("held", [](const OwnedResidency& r) { return r.value.held(); })
      .def_prop_ro("most_held", [](const OwnedResidency& r) { return r.value.most_held(); });

  using OwnedLayer = Owned<Layer>;
  nb::class_<OwnedLayer>(m, "Layer")
      .def("__init__", [](OwnedLayer* self, bool exact) {
        new (self) OwnedLayer{};
        self->value.exact = exact;
      }, nb::arg("exact"))
      .def("integer", [](OwnedLayer& l, const std::string& name, int64_t value) {
        integer(l.value, name) = value;
      })
      .def("number", [](OwnedLayer& l, const std::string& name, float value) {
        number(l.value, name) = value;
      })
      .def("vector", [](OwnedLayer& l, const std::string& name, Floats values) {
        vector_of(l.value, name) = values.data();
        l.kept.push_back(nb::cast(values));
      })
      .def("matrix", [](OwnedLayer& l, const std::string& name, nb::object matrix) {
        matrix_of(l.value, name) = nb::cast<OwnedMatrix&>(matrix).matrix;
        l.kept.push_back(std::move(matrix));
      })
      .def("table", [](OwnedLayer& l, Table table) {
        l.value.mixture.table = table.data();
        l.kept.push_back(nb::cast(table));
      })
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
      .def("complete", [](OwnedLayer& l) { complete(l.value); })
      .def("attend", [](const OwnedLayer& l, const OwnedState& state, const Span& span,
                        uintptr_t x) {
        alone([&] { kernels()->attend(l.value, state.value, span, address<void>(x)); });
      })
      .def("mix", [](const OwnedLayer& l, const Span& span, uintptr_t ids, uintptr_t x) {
        alone([&] { kernels()->mix(l.value, span, address<const int64_t>(ids), address<void>(x)); });
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
        self->kept = {fn, nb::cast(scale), nb::cast(base), nb::cast(norm), weight};
      }, nb::arg("exact"), nb::arg("streams"), nb::arg("d"), nb::arg("eps"), nb::arg("norm_eps"),
         nb::arg("fn"), nb::arg("scale"), nb::arg("base"), nb::arg("norm"), nb::arg("weight"))
      .def("logits", [](const OwnedHead& h, uintptr_t x, int64_t tokens, uintptr_t logits) {
        alone([&] {
          kernels()->logits(h.value, address<const void>(x), tokens, address<float>(logits));
        });
      });

  m.def("attend_keys", [](Floats q, Floats keys, Floats sink, bool low, Floats o) {
    alone([&] {
      kernels()->attend_keys(q.data(), q.shape(0), q.shape(1), keys.data(), keys.shape(0),
                             sink.data(), low, o.data());
    });
  });
  m.def("choose", [](Floats q, Floats weights, Bytes keys, int64_t k,
                     nb::ndarray<uint16_t, nb::c_contig, nb::device::cpu> ranks,
                     nb::ndarray<int32_t, nb::c_contig, nb::device::cpu> chosen) {
    alone([&] {
      kernels()->choose(q.data(), weights.data(), q.shape(0), q.shape(1), keys.data(),
                        keys.shape(0), k, ranks.data(), chosen.data());
    });
  });
  m.def("collapse", [](const OwnedMatrix& fn, Floats scale, Floats base, int64_t iterations,
                       float eps, float norm_eps, Floats x, Floats coefficients, Floats u) {
    const HyperShape shape{static_cast<int64_t>(x.shape(1)), iterations,
                           static_cast<int64_t>(x.shape(2)), eps, norm_eps};
    alone([&] {
      kernels()->hyper(shape, {fn.matrix, scale.data(), base.data()}, x.data(), x.shape(0),
                       coefficients.data(), u.data());
    });
  });
  m.def("entries", [](Floats x, int64_t rotary, Bytes packed, Floats back) {
    kernels()->entries(x.data(), x.shape(0), x.shape(1), rotary, packed.data(), back.data());
  });
  m.def("keys", [](Floats x, Bytes packed, Floats back) {
    kernels()->keys(x.data(), x.shape(0), x.shape(1), packed.data(), back.data());
  });
  m.def("set_threads", [](int threads) { alone([&] { set_threads(threads); }); });
  m.def("kernels", [] { return std::string(kernels()->name); });
  m.def("kernel_names", &kernel_names);
  m.def("choose_kernels", &choose_kernels);
}
