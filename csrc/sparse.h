// The core of attention, one query at a time: which compressed entries, and the weighted sum.
#pragma once

#include "entries.h"
#include "matmul.h"

namespace dsv4::DSV4_ISA {

// o_h = Σ_s p_hs · k_s, p = softmax over keys of q_h·k_s · c^-0.5 with sink_h in the denominator.
// q [heads, c], keys: pointers to [c] → o [heads, c]. Heads lie in lanes, so keys are read once
// for all of them and no sum crosses lanes. `low`: probabilities are rounded to bfloat16 before
// they multiply, the denominator is not.
void attend(const float* q, int64_t heads, int64_t c, const float* const* keys, int64_t count,
            const float* sink, bool low, float* o, Arena& arena);

// The same to the bit, with one query's work shared out among the threads.
void attend_together(Pool& pool, const float* q, int64_t heads, int64_t c,
                     const float* const* keys, int64_t count, const float* sink, bool low,
                     float* o, Arena& arena);

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
                 int64_t ic, const uint8_t* keys, int64_t count, uint16_t* ranks, int64_t stride);

// The k highest ranks, the more recent at a tie: ascending indices [k].
void top_entries(const uint16_t* ranks, int64_t count, int64_t k, int32_t* chosen);

}  // namespace dsv4::DSV4_ISA
