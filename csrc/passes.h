// A span cut into passes of at most ROWS tokens whose rows of x lie side by side: one sequence's
// next tokens, or, where every sequence has one column, a run of sequences.
#pragma once

#include <algorithm>

#include "layer.h"
#include "scratch.h"

namespace dsv4::DSV4_ISA {

constexpr int64_t ROWS = 512;

struct Segment {
  int64_t sequence, start, count;  // start: tokens seen before
  int64_t row;                     // of its first token in the pass
};

struct Pass {
  int64_t first = 0, rows = 0;  // rows of x
  std::vector<Segment> segments;

  int64_t position(int64_t row) const {
    if (segments.size() == 1) return segments[0].start + row;
    return segments[row].start;  // one token each
  }
};

inline std::vector<Pass> passes(const Span& span) {
  std::vector<Pass> found;
  for (int64_t b = 0; b < span.batch; ++b) {
    for (int64_t t = 0; t < span.lengths[b]; t += ROWS) {
      const int64_t count = std::min(ROWS, span.lengths[b] - t), row = b * span.columns + t;
      const bool joins = span.columns == 1 && !found.empty() && found.back().rows < ROWS &&
                         found.back().first + found.back().rows == row;
      if (!joins) found.push_back({row, 0, {}});
      found.back().segments.push_back({b, span.starts[b] + t, count, found.back().rows});
      found.back().rows += count;
    }
  }
  return found;
}

// What the thread that called keeps from call to call.
inline Arena& caller_arena() {
  thread_local Arena arena;
  return arena;
}

}  // namespace dsv4::DSV4_ISA
