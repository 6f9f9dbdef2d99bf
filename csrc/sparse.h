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

// I[s] = Σ_h w_h · relu(q_h · k_s), rounded to bfloat16: q [heads, ic], keys packed rows
// [count, key_bytes] → scores [count].
void index_scores(const float* q, const float* weights, int64_t heads, int64_t ic,
                  const float* keys, int64_t count, float* scores, Arena& arena);

// The k highest scores, the more recent at a tie: ascending indices [k].
void top_entries(const float* scores, int64_t count, int64_t k, int32_t* chosen, Arena& arena);

}  // namespace dsv4::DSV4_ISA
