// New tokens of sequences, cut into passes of at most ROWS tokens: short pieces of several sequences
// side by side, padding left out. A drafted block stays whole, since its rows see one another.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace dsv4 {

constexpr int64_t ROWS = 512;

// Where a sequence's state lies: its slot in the rings, its pages of entries in order.
struct Place {
  int64_t slot = 0;
  const int32_t* table = nullptr;
  int64_t pages = 0;
  int64_t known = 0;  // the entries of so many first tokens are stored already, and stay
};

struct Segment {
  Place place;
  int64_t start, count;  // start: tokens seen before
  int64_t row;           // of its first token in the pass
  bool block;            // a draft: each row sees the last `window` tokens and all rows; none is stored
};

struct Pass {
  int64_t rows = 0;
  std::vector<Segment> segments;
  std::vector<int64_t> sources, positions;  // of each row: its row of x, its place in the sequence
};

// Sequences hold `starts` tokens already; of row b of x [batch, columns], lengths[b] are tokens.
struct Span {
  std::vector<Pass> passes;

  Span(int64_t columns, const std::vector<int64_t>& starts, const std::vector<int64_t>& lengths,
       const std::vector<Place>& places, bool block) {
    const int64_t most = block ? columns : ROWS;
    for (size_t b = 0; b < lengths.size(); ++b) {
      for (int64_t t = 0; t < lengths[b]; t += most) {
        const int64_t count = std::min(most, lengths[b] - t);
        add({places[b], starts[b] + t, count, 0, block}, static_cast<int64_t>(b) * columns + t);
      }
    }
  }

 private:
  void add(Segment s, int64_t source) {
    if (passes.empty() || passes.back().rows + s.count > ROWS) passes.emplace_back();
    Pass& pass = passes.back();
    s.row = pass.rows;
    pass.segments.push_back(s);
    pass.rows += s.count;
    for (int64_t i = 0; i < s.count; ++i) {
      pass.sources.push_back(source + i);
      pass.positions.push_back(s.start + i);
    }
  }
};

}  // namespace dsv4
