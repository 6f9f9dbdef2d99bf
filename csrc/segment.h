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
    const int64_t stored = a_.ratio > 0 ? (s.start + s.count) / a_.ratio : 0;
    const bool chooses = a_.index_heads > 0 && stored > a_.topk;
    const int64_t together = chooses ? QUERIES : s.count;
    for (int64_t first = 0; first < s.count; first += together) {
      const int64_t last = std::min(s.count, first + together);
      Scope scope(arena_);
      attend_some(first, last, chooses ? rank(first, last) : nullptr, stored);
    }
  }

  // Ranks of the entries that queries [first, last) see: [queries, stored].
  const uint16_t* rank(int64_t first, int64_t last) {
    const Segment& s = s_;
    const int64_t ih = a_.index_heads, ic = a_.index_channels;
    const int64_t stored = (s.start + s.count) / a_.ratio, seen = (s.start + last) / a_.ratio;
    uint16_t* ranks = arena_.take<uint16_t>((last - first) * stored);
    const int64_t tasks = (seen + KEY_RANGE - 1) / KEY_RANGE;
    const int64_t grain = std::max<int64_t>(1, tasks / (16 * pool_.threads()));
    pool_.run(tasks, grain, [&](int64_t task, int) {
      const int64_t low = task * KEY_RANGE, count = std::min(KEY_RANGE, seen - low);
      for (int64_t key = low; key < low + count;) {
        const int64_t some = state_.keys.side_by_side(s.place.table, key, low + count - key);
        int64_t visible[QUERIES];
        for (int64_t t = first; t < last; ++t) {
          visible[t - first] = std::min(some, (s.start + t + 1) / a_.ratio - key);
        }
        index_ranks(p_.prepared + (s.row + first) * p_.query_bytes, last - first, visible, ih, ic,
                    state_.keys.at(s.place.table, key), some, ranks + key, stored, worker_arena());
        key += some;
      }
    });
    return ranks;
  }

  // Blocks of queries are a thread's work each where there are enough, else one block is all threads'.
  void attend_some(int64_t first, int64_t last, const uint16_t* ranks, int64_t stored) {
    const int64_t count = last - first, threads = pool_.threads();
    const int64_t together = std::clamp<int64_t>(count / threads, 1, queries_together(a_.heads));
    const int64_t blocks = (count + together - 1) / together;
    const auto block = [&](int64_t i, Pool& pool, Arena& arena) {
      const int64_t low = i * together, high = std::min(count, low + together);
      attend_block(first + low, first + high, ranks ? ranks + low * stored : nullptr, stored, pool,
                   arena);
    };
    if (blocks < threads) {
      for (int64_t i = 0; i < blocks; ++i) block(i, pool_, arena_);
    } else {
      pool_.run(blocks, 1, [&](int64_t i, int) { block(i, Pool::alone(), worker_arena()); });
    }
  }

  void attend_block(int64_t first, int64_t last, const uint16_t* ranks, int64_t stored, Pool& pool,
                    Arena& arena) const {
    Scope scope(arena);
    auto* seen = arena.take<Seen>(last - first);
    for (int64_t t = first; t < last; ++t) {
      seen[t - first] = seen_by(t, ranks ? ranks + (t - first) * stored : nullptr, arena);
    }
    const Attended attended{a_.heads, a_.channels, a_.rotary, a_.sink, exact_, window_,
                            &state_.entries, s_.place.table};
    float* q = p_.q + (s_.row + first) * a_.heads * a_.channels;  // the output takes its place
    attend(pool, attended, seen, last - first, q, arena);
  }

  // What query t of a segment attends to: its window, then its entries in their order.
  Seen seen_by(int64_t t, const uint16_t* ranks, Arena& arena) const {
    const Segment& s = s_;
    const int64_t end = previous_ + (s.block ? s.count : t + 1);  // of the rows that it may see
    const int64_t seen = s.block ? end : std::min(a_.window, end);
    const int64_t visible = a_.ratio > 0 ? (s.start + t + 1) / a_.ratio : 0;
    if (a_.index_heads == 0 || visible <= a_.topk) return {end - seen, end, visible, nullptr};
    int32_t* chosen = arena.take<int32_t>(a_.topk);
    top_entries(ranks, visible, a_.topk, chosen, arena);
    return {end - seen, end, a_.topk, chosen};
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
