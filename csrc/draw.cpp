// p ∝ e^((x − max x) / temperature), cut to the top-k, then top-p, then min-p; the first token whose
// running sum is above a random number.
//
// Sums run one after another, by falling logit while a row is cut and by rising id when it is drawn
// from, so that they are those of the plain operator.
#include "draw.h"

#include <cfloat>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "numeric.h"
#include "pool.h"
#include "scratch.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int64_t NUCLEUS = 256;    // looked at first: ops/draw.py has the same
constexpr int64_t STRETCH = 1024;   // floats that are searched for the highest at once
constexpr int64_t ENOUGH = 1 << 14; // floats that are worth a second thread

int64_t grain(int64_t n) { return std::max<int64_t>(1, ENOUGH / std::max<int64_t>(n, 1)); }

float highest_lane(v16 v) {
  float found = v[0];
  for (int l = 1; l < LANES; ++l) found = std::max(found, v[l]);
  return found;
}

float highest_of(const float* x, int64_t n) {
  v16 high = splat(-INFINITY);
  const int64_t whole = n / LANES * LANES;
  for (int64_t i = 0; i < whole; i += LANES) high = maximum(load(x + i), high);
  for (int64_t i = whole; i < n; ++i) high = maximum(splat(x[i]), high);
  return highest_lane(high);
}

// ---- ranks -------------------------------------------------------------------------------------

// A logit and its id as one number: rising numbers are falling logits, equal ones by lower id.
uint64_t ranked(float x, int64_t id) {
  const uint32_t u = bits<uint32_t>(x + 0.0f);  // −0 is 0
  const uint32_t rising = u ^ (u >> 31 ? 0xFFFFFFFFu : 0x80000000u);
  return static_cast<uint64_t>(~rising) << 32 | static_cast<uint32_t>(id);
}
int64_t low_half(uint64_t word) { return static_cast<int64_t>(word & 0xFFFFFFFFu); }

// Rising words; lower halves that differ where upper ones are equal rise already: eleven bits at a
// time are put in order, those of one digit staying as they are.
void sort_words(uint64_t* words, int64_t n, Arena& arena) {
  if (n <= NUCLEUS) return std::sort(words, words + n);
  constexpr int BITS = 11, DIGITS = 1 << BITS;
  Scope scope(arena);
  uint64_t *from = words, *to = arena.take<uint64_t>(n);
  for (int shift = 32; shift < 64; shift += BITS) {
    int64_t places[DIGITS] = {}, sum = 0;
    for (int64_t i = 0; i < n; ++i) ++places[from[i] >> shift & (DIGITS - 1)];
    if (places[from[0] >> shift & (DIGITS - 1)] == n) continue;  // all the same
    for (int64_t& place : places) sum += std::exchange(place, sum);
    for (int64_t i = 0; i < n; ++i) to[places[from[i] >> shift & (DIGITS - 1)]++] = from[i];
    std::swap(from, to);
  }
  if (from != words) std::memcpy(words, from, n * sizeof(uint64_t));
}

// The `k` likeliest of x [n] in words [n], falling; returns how many: fewer where the rest is −∞, but
// one at least.
int64_t likeliest(const float* x, int64_t n, int64_t k, uint64_t* words, Arena& arena) {
  int64_t found = 0;
  words[0] = 0;
  const auto take = [&](int64_t id, float least) {
    if (x[id] >= least) words[found++] = ranked(x[id], id);
  };
  const int64_t depth = n / (4 * k), strip = depth * LANES;
  if (depth < 2) {
    for (int64_t id = 0; id < n; ++id) take(id, -FLT_MAX);
    sort_words(words, found, arena);
    return std::clamp<int64_t>(found, 1, k);
  }
  // at least k are not below the k-th highest of the highest of each column of `depth` floats
  Scope scope(arena);
  const int64_t strips = n / strip, columns = strips * LANES;
  float *tops = arena.take<float>(columns), *order = arena.take<float>(columns);
  for (int64_t s = 0; s < strips; ++s) {
    v16 top = load(x + s * strip);
    for (int64_t j = 1; j < depth; ++j) top = maximum(load(x + s * strip + j * LANES), top);
    store(tops + s * LANES, top);
  }
  float least = -FLT_MAX;
  if (columns >= k) {
    std::memcpy(order, tops, columns * sizeof(float));
    std::nth_element(order, order + k - 1, order + columns, std::greater<float>());
    least = std::max(order[k - 1], least);
  }
  for (int64_t c = 0; c < columns; ++c) {
    if (!(tops[c] >= least)) continue;
    const int64_t first = c / LANES * strip + c % LANES;
    for (int64_t j = 0; j < depth; ++j) take(first + j * LANES, least);
  }
  for (int64_t id = strips * strip; id < n; ++id) take(id, least);
  if (found > k) std::nth_element(words, words + k, words + found);
  found = std::clamp<int64_t>(found, 1, k);
  std::sort(words, words + found);
  return found;
}

// ---- cuts and draws ----------------------------------------------------------------------------

// How many of `weight(0 … n − 1)`, falling, stay; the likeliest always does.
template <class F>
int64_t staying(int64_t n, double most, double least, F&& weight) {
  double before = 0;
  int64_t count = 0;
  for (; count < n; ++count) {
    const double w = weight(count);
    if (!(before < most && w >= least) || w == 0) break;
    before += w;
  }
  return std::max<int64_t>(count, 1);
}

double total(const double* w, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += w[i];
  return sum;
}

// Which of the weights the random number falls on; they become the sums of their shares.
int64_t drawn(double* w, int64_t n, double uniform) {
  const double whole = total(w, n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) w[i] = sum += w[i] / whole;
  const int64_t found = std::upper_bound(w, w + n, uniform * sum) - w;
  return std::min<int64_t>(found, std::lower_bound(w, w + n, sum) - w);  // not past it by rounding
}

// The id that it falls on among `count` words of id and place, whose weights are `weight(place)`.
template <class F>
int64_t drawn_among(uint64_t* words, int64_t count, double uniform, Arena& arena, F&& weight) {
  Scope scope(arena);
  double* w = arena.take<double>(count);
  sort_words(words, count, arena);
  for (int64_t i = 0; i < count; ++i) w[i] = weight(low_half(words[i]));
  return static_cast<int64_t>(words[drawn(w, count, uniform)] >> 32);
}

int64_t pick_some(const Draws& d, int64_t row, const int32_t* ids, const double* weights, Arena& arena) {
  const int64_t k = d.counts[row];
  const auto weight = [&](int64_t i) { return weights[i]; };
  const int64_t count = staying(k, d.top_p[row] * total(weights, k), d.min_p[row], weight);
  uint64_t* words = arena.take<uint64_t>(count);
  for (int64_t i = 0; i < count; ++i) words[i] = static_cast<uint64_t>(ids[i]) << 32 | i;
  return drawn_among(words, count, d.uniforms[row], arena, weight);
}

int64_t pick_any(const Draws& d, int64_t row, double* weights, Arena& arena) {
  const int64_t n = d.vocabulary;
  const double least = d.min_p[row], uniform = d.uniforms[row];
  double most = d.top_p[row];
  if (most == INFINITY && least == 0) return drawn(weights, n, uniform);
  if (most < INFINITY) most *= total(weights, n);
  uint64_t* words = arena.take<uint64_t>(n);
  for (int64_t many = NUCLEUS;; many *= 8) {
    many = std::min(many, n);
    const int64_t found = likeliest(d.logits + row * n, n, many, words, arena);
    const int64_t count = staying(found, most, least,
                                  [&](int64_t i) { return weights[low_half(words[i])]; });
    if (count == many && many < n) continue;
    for (int64_t i = 0; i < count; ++i) words[i] = words[i] << 32 | low_half(words[i]);
    return drawn_among(words, count, uniform, arena, [&](int64_t id) { return weights[id]; });
  }
}

std::vector<int64_t> places_of(const Draws& d) {
  std::vector<int64_t> places(d.rows + 1);
  for (int64_t row = 0; row < d.rows; ++row) places[row + 1] = places[row] + d.counts[row];
  return places;
}

}  // namespace

void survey_rows(const float* x, int64_t rows, int64_t n, float* lowest, float* highest,
                 int64_t* best) {
  Pool::instance().run(rows, grain(n), [&](int64_t row, int) {
    const float* from = x + row * n;
    v16 low = splat(INFINITY);
    i16 same{};  // −1 in lanes where all is equal to itself: none is NaN
    same = ~same;
    float top = -INFINITY;
    int64_t stretch = 0;
    for (int64_t first = 0; first < n; first += STRETCH) {
      v16 high = splat(-INFINITY);
      const int64_t end = std::min(n, first + STRETCH), whole = first + (end - first) / LANES * LANES;
      for (int64_t i = first; i < whole; i += LANES) {
        const v16 v = load(from + i);
        low = minimum(v, low), high = maximum(v, high);
        same &= v == v;
      }
      for (int64_t i = whole; i < end; ++i) {
        const v16 v = splat(from[i]);
        low = minimum(v, low), high = maximum(v, high);
        same &= v == v;
      }
      const float here = highest_lane(high);
      if (here > top) top = here, stretch = first;
    }
    bool numbers = true;
    for (int l = 0; l < LANES; ++l) numbers &= same[l] != 0;
    lowest[row] = numbers ? -highest_lane(-low) : NAN;
    highest[row] = numbers ? top : NAN;
    while (stretch < n - 1 && !(from[stretch] == top)) ++stretch;
    best[row] = stretch;
  });
}

void weigh_rows(const Draws& d) {
  const int64_t n = d.vocabulary;
  const std::vector<int64_t> places = places_of(d);
  Pool::instance().run(d.rows, grain(n), [&](int64_t row, int) {
    Arena& arena = worker_arena();
    Scope scope(arena);
    const float* x = d.logits + row * n;
    double* y = d.weights + places[row];
    int32_t* ids = d.ids + places[row];
    const double t = d.temperatures[row];
    const int64_t k = d.counts[row];
    if (k == n) {
      const double highest = highest_of(x, n);
      for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - highest) / t;
      return;
    }
    uint64_t* words = arena.take<uint64_t>(n);
    const int64_t found = likeliest(x, n, k, words, arena);
    const double highest = x[low_half(words[0])];
    for (int64_t i = 0; i < found; ++i) {
      ids[i] = static_cast<int32_t>(low_half(words[i]));
      y[i] = (x[ids[i]] - highest) / t;
    }
    std::fill(ids + found, ids + k, -1);
    std::fill(y + found, y + k, -INFINITY);
  });
}

void pick_rows(const Draws& d, int64_t* chosen) {
  const int64_t n = d.vocabulary;
  const std::vector<int64_t> places = places_of(d);
  Pool::instance().run(d.rows, grain(d.rows > 0 ? places[d.rows] / d.rows : 1), [&](int64_t row, int) {
    Arena& arena = worker_arena();
    Scope scope(arena);
    double* weights = d.weights + places[row];
    chosen[row] = d.counts[row] < n ? pick_some(d, row, d.ids + places[row], weights, arena)
                                    : pick_any(d, row, weights, arena);
  });
}

}  // namespace dsv4::DSV4_ISA
