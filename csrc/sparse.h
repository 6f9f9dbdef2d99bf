// The core of attention: which compressed entries, and the weighted sum over what is seen.
#pragma once

#include "entries.h"
#include "matmul.h"

namespace dsv4::DSV4_ISA {

// o_h = Σ_s p_hs · k_s, p = softmax over keys of q_h·k_s · c^-0.5 with sink_h in the denominator.
//
// Keys are the rows of a window, then entries. A score adds its channels in their order, a sum of
// values its keys in theirs, and neither depends on who works it out or with whom: scores have keys in
// lanes, sums of values channels. `low`: probabilities are rounded to bfloat16 before they multiply,
// the denominator is not.
struct Attended {
  int64_t heads, channels, rotary;
  const float* sink;            // [heads]
  bool low;
  const float* window;          // rows [channels]
  const Paged* entries;         // where they lie, packed, or null
  const int32_t* table;
};

// What one query attends to: rows [first, last) of the window, the first entries or chosen ones.
struct Seen {
  int64_t first, last, entries;
  const int32_t* chosen;        // ascending [entries], or null
};

// Queries of a sequence that are attended to together: so many that a row is worth unpacking.
int64_t queries_together(int64_t heads);

// q [queries, heads, channels]; o takes its place.
void attend(Pool& pool, const Attended& a, const Seen* seen, int64_t queries, float* q, Arena& arena);

// ---- the indexer ------------------------------------------------------------------------------
//
// I[s] = Σ_h w_h · relu(q_h · k_s), rounded to bfloat16 and kept as its rank: 16 bits in the order
// of the numbers. Queries and keys are FP4, so their products are small integers times two powers
// of two; where the machine has byte products, they are summed as integers.

// Bytes of one prepared query, and its making: q [heads, ic] rounded by `round_key`, weights [heads].
int64_t index_query_bytes(int64_t heads, int64_t ic);
void prepare_index_query(const float* q, const float* weights, int64_t heads, int64_t ic,
                         uint8_t* prepared);

// Ranks of `count` packed keys, one after another in memory, for `queries` prepared queries side by
// side. Query i sees the first visible[i] keys (at most count); its ranks go to ranks[i · stride …].
void index_ranks(const uint8_t* prepared, int64_t queries, const int64_t* visible, int64_t heads,
                 int64_t ic, const uint8_t* keys, int64_t count, uint16_t* ranks, int64_t stride,
                 Arena& arena);

// The k highest ranks, the more recent at a tie: ascending indices [k].
void top_entries(const uint16_t* ranks, int64_t count, int64_t k, int32_t* chosen, Arena& arena);

}  // namespace dsv4::DSV4_ISA
