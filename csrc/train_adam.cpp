// One step of AdamW. Whole vectors and what is left run the same instructions, so that a number's result
// does not depend on where it lies: shards give the bits of the whole.
//
// m ← m + (1 − β₁)(g − m),  v ← β₂ v + (1 − β₂) g²,  w ← keep · w − rate · m / (√v · root + ε)
#include "training_isa.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int64_t CHUNK = 1 << 14;  // numbers of one task

v16 square_root(v16 x) {
#if defined(__AVX512F__)
  return (v16)_mm512_sqrt_ps((__m512)x);
#else
  for (int l = 0; l < LANES; ++l) x[l] = std::sqrt(x[l]);
  return x;
#endif
}

}  // namespace

void train_adam(const Adam& a, int64_t count, const float* slope, float* weight, float* mean,
                float* square) {
  Pool::instance().run((count + CHUNK - 1) / CHUNK, 1, [&](int64_t chunk, int) {
    for (int64_t i = chunk * CHUNK; i < std::min(count, (chunk + 1) * CHUNK); i += LANES) {
      const int64_t left = count - i;
      const v16 g = read_some(slope + i, left), before = read_some(mean + i, left);
      const v16 m = fma(g - before, splat(1.0f - a.mean), before);
      const v16 v = fma(g * g, splat(1.0f - a.square), read_some(square + i, left) * a.square);
      const v16 moved = m / fma(square_root(v), splat(a.root), splat(a.eps));
      write_some(mean + i, m, left);
      write_some(square + i, v, left);
      write_some(weight + i, fma(moved, splat(-a.rate), read_some(weight + i, left) * a.keep), left);
    }
  });
}

}  // namespace dsv4::DSV4_ISA
