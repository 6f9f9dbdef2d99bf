// Attention of one sequence's new tokens in one layer: close blocks, attend, store the window entries.
#pragma once

#include "compressor.h"
#include "layer.h"
#include "sparse.h"

namespace dsv4::DSV4_ISA {

// What the projections of a pass made, row by row.
struct Projected {
  float *q = nullptr, *kv = nullptr;                // [rows, heads, c], [rows, c]
  float *raw = nullptr, *index_raw = nullptr;       // compressor rows: values | scores
  float *index_q = nullptr, *index_weights = nullptr;
  float* phases = nullptr;                          // [rows, r]: cosines | sines
  uint8_t *packed = nullptr, *prepared = nullptr;   // window entries, indexer queries
  int64_t row_bytes = 0, query_bytes = 0;
};

// The segment's window entries into its ring: the last that it holds.
inline void store_window(const LayerState& state, const Projected& p, const Segment& s) {
  for (int64_t t = std::max<int64_t>(0, s.count - state.window.capacity); t < s.count; ++t) {
    std::memcpy(state.window.at(s.place.slot, s.start + t), p.packed + (s.row + t) * p.row_bytes,
                p.row_bytes);
  }
}

class SegmentAttention {
 public:
  // Work is shared out by `pool`; the output takes the place of the queries.
  SegmentAttention(const Layer& layer, const LayerState& state, const Projected& projected,
                   const Segment& segment, Pool& pool, Arena& arena)
      : a_(layer.attention), state_(state), p_(projected), s_(segment), pool_(pool), arena_(arena),
        exact_(layer.exact) {}

  void run() {
    Scope scope(arena_);
    const Segment& s = s_;
    const int64_t c = a_.channels;
    if (a_.ratio > 0) {
      compress(pool_, a_.compressor, exact_, p_.raw + s.row * 2 * a_.compressor.width(), s.start,
               s.count, s.place, state_.tail, state_.entries);
    }
    if (a_.index_heads > 0) {
      compress(pool_, a_.index_compressor, exact_,
               p_.index_raw + s.row * 2 * a_.index_compressor.width(), s.start, s.count, s.place,
               state_.index_tail, state_.keys);
    }
    previous_ = std::min(s.block ? a_.window : a_.window - 1, s.start);
    float* window = arena_.take<float>((previous_ + s.count) * c);
    pool_.run(previous_ + s.count, UNPACKED, [&](int64_t i, int) {
      const int64_t position = s.start - previous_ + i;
      const uint8_t* row = i < previous_
                               ? state_.window.at(s.place.slot, position)
                               : p_.packed + (s.row + i - previous_) * p_.row_bytes;
      unpack_entry(row, c, a_.rotary, window + i * c);
    });
    window_ = window;
    attend_queries();
    if (!s.block) store_window(state_, p_, s);
  }

 private:
  void attend_queries() {
    const Segment& s = s_;
    const int64_t c = a_.channels;
    const int64_t stored = a_.ratio > 0 ? (s.start + s.count) / a_.ratio : 0;
    const bool chooses = a_.index_heads > 0 && stored > a_.topk;
    // unpack all entries once if the queries would unpack more by themselves
    const int64_t wanted = chooses ? s.count * a_.topk : s.count * stored;
    const float* all = nullptr;
    if (stored > 0 && wanted >= stored) {
      float* unpacked = arena_.take<float>(stored * c);
      pool_.run(stored, UNPACKED, [&](int64_t i, int) {
        unpack_entry(state_.entries.at(s.place.table, i), c, a_.rotary, unpacked + i * c);
      });
      all = unpacked;
    }
    const int64_t together = chooses ? QUERIES : s.count;
    for (int64_t first = 0; first < s.count; first += together) {
      const int64_t last = std::min(s.count, first + together);
      Scope scope(arena_);
      const uint16_t* ranks = chooses ? rank(first, last) : nullptr;
      attend_some(first, last, ranks, stored, all);
    }
  }

  // Ranks of the entries that queries [first, last) see: [queries, stored].
  const uint16_t* rank(int64_t first, int64_t last) {
    const Segment& s = s_;
    const int64_t ih = a_.index_heads, ic = a_.index_channels;
    const int64_t stored = (s.start + s.count) / a_.ratio, seen = (s.start + last) / a_.ratio;
    uint16_t* ranks = arena_.take<uint16_t>((last - first) * stored);
    pool_.run((seen + KEY_RANGE - 1) / KEY_RANGE, 1, [&](int64_t task, int) {
      const int64_t low = task * KEY_RANGE, count = std::min(KEY_RANGE, seen - low);
      for (int64_t key = low; key < low + count;) {  // keys of one page lie side by side
        const int64_t some = std::min(low + count - key, state_.keys.left_in_page(key));
        int64_t visible[QUERIES];
        for (int64_t t = first; t < last; ++t) {
          visible[t - first] = std::min(some, (s.start + t + 1) / a_.ratio - key);
        }
        index_ranks(p_.prepared + (s.row + first) * p_.query_bytes, last - first, visible, ih, ic,
                    state_.keys.at(s.place.table, key), some, ranks + key, stored);
        key += some;
      }
    });
    return ranks;
  }

  void attend_some(int64_t first, int64_t last, const uint16_t* ranks, int64_t stored,
                   const float* all) {
    const Segment& s = s_;
    if (last - first >= pool_.threads()) {
      pool_.run(last - first, 1, [&](int64_t i, int) {
        Arena& arena = worker_arena();
        Scope scope(arena);
        const auto keys = keys_of(first + i, ranks ? ranks + i * stored : nullptr, all, arena);
        float* q = p_.q + (s.row + first + i) * a_.heads * a_.channels;  // the output takes its place
        attend(q, a_.heads, a_.channels, keys.data, keys.count, a_.sink, exact_, q, arena);
      });
      return;
    }
    for (int64_t i = 0; i < last - first; ++i) {
      Scope scope(arena_);
      const auto keys = keys_of(first + i, ranks ? ranks + i * stored : nullptr, all, arena_);
      float* q = p_.q + (s.row + first + i) * a_.heads * a_.channels;
      attend_together(pool_, q, a_.heads, a_.channels, keys.data, keys.count, a_.sink, exact_, q,
                      arena_);
    }
  }

  struct Keys {
    const float** data;
    int64_t count;
  };

  // What query t of a segment attends to: its window, then its entries in their order.
  Keys keys_of(int64_t t, const uint16_t* ranks, const float* all, Arena& arena) const {
    const Segment& s = s_;
    const int64_t c = a_.channels, position = s.start + t;
    const int64_t end = previous_ + (s.block ? s.count : t + 1);  // of the rows that it may see
    const int64_t seen = s.block ? end : std::min(a_.window, end);
    const int64_t visible = a_.ratio > 0 ? (position + 1) / a_.ratio : 0;
    const bool picks = a_.index_heads > 0 && visible > a_.topk;
    const int64_t entries = picks ? a_.topk : visible;
    const Keys keys{arena.take<const float*>(seen + entries), seen + entries};
    for (int64_t i = 0; i < seen; ++i) keys.data[i] = window_ + (end - seen + i) * c;
    int32_t* chosen = picks ? arena.take<int32_t>(entries) : nullptr;
    if (picks) top_entries(ranks, visible, a_.topk, chosen);
    float* unpacked = all == nullptr ? arena.take<float>(entries * c) : nullptr;
    for (int64_t i = 0; i < entries; ++i) {
      const int64_t entry = picks ? chosen[i] : i;
      if (all == nullptr) {
        unpack_entry(state_.entries.at(s.place.table, entry), c, a_.rotary, unpacked + i * c);
      }
      keys.data[seen + i] = all ? all + entry * c : unpacked + i * c;
    }
    return keys;
  }

  static constexpr int64_t KEY_RANGE = 512;  // indexer keys that one task scores
  static constexpr int64_t QUERIES = 32;     // queries scored together
  static constexpr int64_t UNPACKED = 64;    // entries that a thread unpacks at a time

  const Attention& a_;
  const LayerState& state_;
  const Projected& p_;
  const Segment& s_;
  Pool& pool_;
  Arena& arena_;
  bool exact_;
  int64_t previous_ = 0;  // window entries before the segment
  const float* window_ = nullptr;
};

}  // namespace dsv4::DSV4_ISA
