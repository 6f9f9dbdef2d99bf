// entry_i = rotate(RMSNorm(Σ_t softmax_t(scores_t + ape) ⊙ values_t), ratio · i), as cache bytes.
// The sum runs over block i, and where blocks overlap over block i−1 through the first half of the
// channels and block i through the second.
#pragma once

#include "layer.h"
#include "pool.h"
#include "scratch.h"
#include "span.h"

namespace dsv4::DSV4_ISA {

// Closes the blocks that `count` new tokens after `start` complete: raw rows [count, 2·width] are
// the new tokens', older ones come from the ring `tail`. Then stores the new rows in the ring.
void compress(Pool& pool, const Compressor& c, bool exact, const float* raw, int64_t start,
              int64_t count, const Place& place, const Ring<float>& tail, const Paged& entries);

}  // namespace dsv4::DSV4_ISA
