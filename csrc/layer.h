// What one layer computes with: shapes, weights where they lie, and the state of its sequences.
// Nothing here owns memory; the Python side keeps the tensors alive.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "matrix.h"
#include "span.h"

namespace dsv4 {

class Residency;

constexpr int64_t MAX_STREAMS = 8;

struct Hyper {
  Matrix fn;                     // F32 [(2 + hc)·hc, hc·d]; the output head's is [hc, hc·d]
  const float* scale = nullptr;  // [3]; the head's [1]
  const float* base = nullptr;   // [(2 + hc)·hc]; the head's [hc]
};

struct HyperShape {
  int64_t streams = 4, iterations = 20, d = 0;
  float eps = 1e-6f, norm_eps = 1e-6f;
};

// One entry per `ratio` tokens: channels of an attention entry, or of an indexer key.
struct Compressor {
  int64_t ratio = 0, channels = 0, rotary = 0;
  bool overlaps = false, is_key = false;
  Matrix wkv, wgate;            // [width, d], width = channels, twice that where blocks overlap
  const float* ape = nullptr;   // [ratio, width]
  const float* norm = nullptr;  // [channels]
  const float* frequencies = nullptr;
  float eps = 1e-6f;
  int64_t width() const { return overlaps ? 2 * channels : channels; }
};

struct Attention {
  int64_t heads = 0, channels = 0, rotary = 0, q_rank = 0, groups = 0, o_rank = 0, window = 0;
  int64_t ratio = 0, index_heads = 0, index_channels = 0, topk = 0;  // ratio 0: window only
  const float* frequencies = nullptr;  // [rotary / 2]
  const float *norm = nullptr, *q_norm = nullptr, *kv_norm = nullptr, *sink = nullptr;
  Matrix wq_a, wq_b, wkv, wo_a, wo_b, index_wq_b, index_weights;
  Compressor compressor, index_compressor;
  Hyper hyper;
};

struct Mixture {
  int64_t experts = 0, chosen = 0, inner = 0;
  float limit = 0, scaling = 1;
  const float* norm = nullptr;
  Matrix gate;
  const float* bias = nullptr;       // [experts], or
  const int64_t* table = nullptr;    // hash routing: [vocabulary, chosen]
  int64_t vocabulary = 0;
  std::vector<Matrix> w1, w2, w3;    // routed experts
  Residency* residency = nullptr;    // where they may not all be in memory
  Matrix shared1, shared2, shared3;
  Hyper hyper;
};

struct Layer {
  HyperShape shape;
  bool exact = false;  // bfloat16 between operators, FP8 inputs of packed linears
  Attention attention;
  Mixture mixture;
};

struct Head {
  HyperShape shape;
  bool exact = false;
  Hyper hyper;
  const float* norm = nullptr;
  Matrix weight;
};

// What a block draft reads: RMSNorm(proj · main_hidden).
struct Context {
  bool exact = false;
  Matrix proj;  // [d, T·d]
  const float* norm = nullptr;
  float eps = 1e-6f;
};

// What the MTP block reads: e_proj · RMSNorm(embedded) + h_proj · RMSNorm(stream), of each stream.
struct Joint {
  bool exact = false;
  int64_t streams = 4;
  Matrix e_proj, h_proj;  // [d, d]
  const float *enorm = nullptr, *hnorm = nullptr;
  float eps = 1e-6f;
};

// What a token adds to the next one's logits, and how sure a draft is of the row before.
struct Markov {
  Matrix w1, w2;  // [vocabulary, rank]
  Matrix sure;    // [1, d + rank]
};

// State of a fixed size: [slots, capacity, row], bytes or floats; position p in row p mod capacity.
template <class T>
struct Ring {
  T* data = nullptr;
  int64_t slots = 0, capacity = 0, row = 0;
  T* at(int64_t slot, int64_t position) const {
    return data + (slot * capacity + position % capacity) * row;
  }
};

// Entries of all sequences: [pages, page_rows, row]; a sequence's table names its pages in order.
struct Paged {
  uint8_t* data = nullptr;
  int64_t pages = 0, page_rows = 0, row = 0;
  uint8_t* in(int64_t page, int64_t entry) const { return data + (page * page_rows + entry) * row; }
  uint8_t* at(const int32_t* table, int64_t entry) const {
    return in(table[entry / page_rows], entry % page_rows);
  }
  // How many entries, at most `most`, lie side by side from one on: to the end of its page, and of the
  // pages behind it that lie behind it.
  int64_t side_by_side(const int32_t* table, int64_t entry, int64_t most) const {
    int64_t page = entry / page_rows, count = page_rows - entry % page_rows;
    for (; count < most && table[page + 1] == table[page] + 1; ++page) count += page_rows;
    return std::min(count, most);
  }
};

// Bytes of a cache row: an entry of c channels, r of them rotary, and an indexer key (entries.h).
constexpr int64_t ENTRY_BLOCK = 64, KEY_BLOCK = 32;

inline int64_t entry_bytes(int64_t c, int64_t r) {
  return (c - r) + 2 * r + (c - r + ENTRY_BLOCK - 1) / ENTRY_BLOCK;
}
inline int64_t key_bytes(int64_t ic) { return ic / 2 + (ic + KEY_BLOCK - 1) / KEY_BLOCK; }

struct LayerState {
  Ring<uint8_t> window;
  Paged entries, keys;
  Ring<float> tail, index_tail;  // raw compressor rows: values | scores
};

}  // namespace dsv4
