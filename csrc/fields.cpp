#include "fields.h"

#include <functional>
#include <stdexcept>

namespace dsv4 {
namespace {

template <class T, class M>
M& named(T& object, const std::map<std::string, std::function<M&(T&)>>& fields,
         const std::string& name) {
  const auto found = fields.find(name);
  if (found == fields.end()) throw std::invalid_argument("no field " + name);
  return found->second(object);
}

}  // namespace

#define FIELD(name, path) \
  { name, [](Layer& l) -> auto& { return l.path; } }

int64_t& integer_of(Layer& layer, const std::string& name) {
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

float& number_of(Layer& layer, const std::string& name) {
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

void require_matrix(const std::string& name, const Matrix& w, int64_t rows, int64_t columns) {
  if (w.data != nullptr && w.rows == rows && w.columns == columns) return;
  const auto shape = [](int64_t r, int64_t c) {
    return "[" + std::to_string(r) + ", " + std::to_string(c) + "]";
  };
  throw std::invalid_argument(
      name + (w.data ? " is " + shape(w.rows, w.columns) : std::string(" is missing")) +
      ", must be " + shape(rows, columns));
}

void require_floats(const std::string& name, const Matrix& w) {
  if (w.format == Format::F32 || w.format == Format::BF16) return;
  throw std::invalid_argument(name + " is packed, must be float32 or bfloat16");
}

namespace {

using Sizes = std::map<std::string, int64_t>;

Sizes vector_sizes(const Layer& layer) {
  const Attention& a = layer.attention;
  const Mixture& m = layer.mixture;
  const int64_t d = layer.shape.d, hc = layer.shape.streams;
  Sizes wanted{{"freqs", a.rotary / 2}, {"attn_norm", d}, {"q_norm", a.q_rank},
               {"kv_norm", a.channels}, {"attn_sink", a.heads}, {"ffn_norm", d}};
  for (const std::string part : {"hc_attn_", "hc_ffn_"}) {
    wanted[part + "scale"] = 3;
    wanted[part + "base"] = (2 + hc) * hc;
  }
  if (m.table == nullptr) wanted["gate.bias"] = m.experts;
  const auto compressor = [&](const std::string& prefix, const Compressor& c) {
    wanted[prefix + "ape"] = c.ratio * c.width();
    wanted[prefix + "norm"] = c.channels;
  };
  if (a.ratio > 0) compressor("compressor.", a.compressor);
  if (a.index_heads > 0) compressor("indexer.compressor.", a.index_compressor);
  return wanted;
}

void check_vectors(const Layer& layer, const Sizes& sizes) {
  for (const auto& [name, wanted] : vector_sizes(layer)) {
    const auto found = sizes.find(name);
    const int64_t size = found == sizes.end() ? 0 : found->second;
    if (size != wanted) {
      throw std::invalid_argument(name + " has " + std::to_string(size) + " numbers, must have " +
                                  std::to_string(wanted));
    }
  }
}

void check_matrices(const Layer& layer) {
  const Attention& a = layer.attention;
  const Mixture& m = layer.mixture;
  const int64_t d = layer.shape.d, hc = layer.shape.streams, wide = a.heads * a.channels;
  require_matrix("wq_a", a.wq_a, a.q_rank, d);
  require_matrix("wq_b", a.wq_b, wide, a.q_rank);
  require_matrix("wkv", a.wkv, a.channels, d);
  require_matrix("wo_a", a.wo_a, a.groups * a.o_rank, wide / a.groups);
  require_matrix("wo_b", a.wo_b, d, a.groups * a.o_rank);
  const auto compressor = [&](const std::string& prefix, const Compressor& c) {
    require_matrix(prefix + "wkv", c.wkv, c.width(), d);
    require_matrix(prefix + "wgate", c.wgate, c.width(), d);
  };
  if (a.ratio > 0) compressor("compressor.", a.compressor);
  if (a.index_heads > 0) {
    compressor("indexer.compressor.", a.index_compressor);
    require_matrix("indexer.wq_b", a.index_wq_b, a.index_heads * a.index_channels, a.q_rank);
    require_matrix("indexer.weights_proj", a.index_weights, a.index_heads, d);
  }
  require_matrix("hc_attn_fn", a.hyper.fn, (2 + hc) * hc, hc * d);
  require_matrix("hc_ffn_fn", m.hyper.fn, (2 + hc) * hc, hc * d);
  require_matrix("gate", m.gate, m.experts, d);
  require_matrix("shared_experts.w1", m.shared1, m.inner, d);
  require_matrix("shared_experts.w2", m.shared2, d, m.inner);
  require_matrix("shared_experts.w3", m.shared3, m.inner, d);
  if (static_cast<int64_t>(m.w1.size()) != m.experts) {
    throw std::invalid_argument(std::to_string(m.w1.size()) + " experts, must be " +
                                std::to_string(m.experts));
  }
  for (int64_t e = 0; e < m.experts; ++e) {
    const std::string prefix = "experts." + std::to_string(e) + ".w";
    require_matrix(prefix + "1", m.w1[e], m.inner, d);
    require_matrix(prefix + "2", m.w2[e], d, m.inner);
    require_matrix(prefix + "3", m.w3[e], m.inner, d);
  }
}

}  // namespace

void complete(Layer& layer, const Sizes& sizes) {
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
  check_vectors(layer, sizes);
  check_matrices(layer);
}

}  // namespace dsv4
