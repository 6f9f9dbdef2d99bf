#include "compressor.h"

#include "entries.h"

namespace dsv4::DSV4_ISA {
namespace {

struct Source {  // one token of a block: its values, scores and position bias
  const float *values, *scores, *ape;
};

// Σ_t softmax_t(scores + ape) · values per channel: entry [channels].
void pool_block(const std::vector<Source>& sources, int64_t channels, float* entry) {
  for (int64_t i = 0; i < channels; i += LANES) {
    v16 top = splat(-INFINITY);
    for (const Source& s : sources) top = maximum(top, load(s.scores + i) + load(s.ape + i));
    v16 total = zero(), weighted = zero();
    for (const Source& s : sources) {
      const v16 p = exponential(load(s.scores + i) + load(s.ape + i) - top);
      total += p;
      weighted = fma(p, load(s.values + i), weighted);
    }
    store(entry + i, weighted / total);
  }
}

void finish(const Compressor& c, bool exact, int64_t block, float* pooled, uint8_t* row) {
  thread_local std::vector<float> entry, cosines, sines;
  entry.resize(c.channels + LANES);
  cosines.resize(c.rotary / 2);
  sines.resize(c.rotary / 2);
  store_precision(pooled, c.channels, exact);
  rms_norm(pooled, c.norm, c.channels, c.eps, entry.data());
  store_precision(entry.data(), c.channels, exact);
  phases(block * c.ratio, c.frequencies, c.rotary, cosines.data(), sines.data());
  rotate(entry.data() + c.channels - c.rotary, c.rotary, cosines.data(), sines.data(), false);
  store_precision(entry.data(), c.channels, exact);
  if (!c.is_key) return pack_entry(entry.data(), c.channels, c.rotary, row);
  hadamard(entry.data(), c.channels);
  store_precision(entry.data(), c.channels, exact);
  pack_key(entry.data(), c.channels, row);
}

}  // namespace

void compress(Pool& pool, const Compressor& c, bool exact, const float* raw, int64_t start,
              int64_t count, const Place& place, const Ring<float>& tail, const Paged& entries) {
  const int64_t m = c.ratio, width = c.width(), last = (start + count) / m;
  const int64_t first = std::min(last, std::max(start, place.known) / m);
  const auto row = [&](int64_t position) {
    return position >= start ? raw + (position - start) * 2 * width
                             : tail.at(place.slot, position);
  };
  pool.run(last - first, 1, [&](int64_t task, int) {
    const int64_t block = first + task;
    thread_local std::vector<Source> sources;
    thread_local std::vector<float> pooled;
    sources.clear();
    pooled.resize(c.channels + LANES);
    if (c.overlaps && block > 0) {
      for (int64_t t = 0; t < m; ++t) {
        const float* r = row((block - 1) * m + t);
        sources.push_back({r, r + width, c.ape + t * width});
      }
    }
    const int64_t own = c.overlaps ? c.channels : 0;
    for (int64_t t = 0; t < m; ++t) {
      const float* r = row(block * m + t) + own;
      sources.push_back({r, r + width, c.ape + t * width + own});
    }
    pool_block(sources, c.channels, pooled.data());
    finish(c, exact, block, pooled.data(), entries.at(place.table, block));
  });
  for (int64_t t = std::max<int64_t>(0, count - tail.capacity); t < count; ++t) {
    std::memcpy(tail.at(place.slot, start + t), raw + t * 2 * width,
                2 * width * sizeof(float));
  }
}

}  // namespace dsv4::DSV4_ISA
