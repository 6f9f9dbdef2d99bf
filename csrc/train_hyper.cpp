// Residual streams in training: what a layer reads of them and writes back, and the slopes of both.
//
// z = fn x / rms(x);  pre | post | comb from z (stream_coefficients.h);  u = Σ_j pre_j x_j
// x'_k = post_k y + Σ_j comb_jk x_j
// dx = pre du + fnᵀ dz / rms(x), and what comes through rms;  dfn = Σ_t dz xᵀ: no step of Sinkhorn is kept
#include "small_product.h"
#include "stream_coefficients.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int64_t BLOCK = 48;    // tokens of one task: they stay in the second cache
constexpr int64_t MOST_WIDE = ((2 + MAX_STREAMS) * MAX_STREAMS + 31) / 32 * 32;
constexpr int64_t STRIPES = 32;  // of tokens; each has slopes of its own for fn, base and scale

float mean_square(const float* x, int64_t n) {
  v16 total[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES) {
    for (int k = 0; k < 4; ++k) {
      const v16 v = load(x + i + k * LANES);
      total[k] = fma(v, v, total[k]);
    }
  }
  for (; i < n; i += LANES) {
    const v16 v = read_some(x + i, n - i);
    total[0] = fma(v, v, total[0]);
  }
  return sum((total[0] + total[1]) + (total[2] + total[3])) / n;
}

// f with the number of streams as a constant, so that what runs over them stays in registers.
template <class F>
void with_streams(int64_t hc, F&& f) {
  with_rows(static_cast<int>(hc), f, std::make_integer_sequence<int, MAX_STREAMS>{});
}

// u = Σ_j pre_j · x_j of one token.
template <int HC>
void collapse(const float* x, const float* pre, int64_t d, float* u) {
  by_lanes(d, [&](int64_t i, int64_t left) DSV4_INLINE {
    v16 total = zero();
    for (int j = 0; j < HC; ++j) total = fma(splat(pre[j]), read_some(x + j * d + i, left), total);
    write_some(u + i, total, left);
  });
}

// The slopes of pre.
template <int HC>
void collapse_back(const float* x, const float* of_u, int64_t d, float* slope) {
  v16 along[HC] = {};
  by_lanes(d, [&](int64_t i, int64_t left) DSV4_INLINE {
    const v16 du = read_some(of_u + i, left);
    for (int j = 0; j < HC; ++j) along[j] = fma(read_some(x + j * d + i, left), du, along[j]);
  });
  for (int j = 0; j < HC; ++j) slope[j] = sum(along[j]);
}

int64_t padded(int64_t n) { return (n + 31) / 32 * 32; }

// fn [out, width] → [width, padded(out)], or, `straight`, [out, padded(width)].
float* laid_out(Arena& arena, const Streams& s, bool straight) {
  const int64_t width = s.width(), out = s.outputs(), stride = padded(straight ? width : out);
  const int64_t size = (straight ? out : width) * stride;
  float* to = arena.take<float>(size);
  std::memset(to, 0, size * sizeof(float));
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t p = 0; p < width; ++p) {
      to[straight ? i * stride + p : p * stride + i] = s.fn[i * width + p];
    }
  }
  return to;
}

}  // namespace

void train_read(const Streams& s, const float* x, float* z, float* norm, float* coefficients,
                float* u) {
  Arena& arena = caller_arena();
  Scope scope(arena);
  const int64_t hc = s.shape.streams, d = s.shape.d, width = s.width(), out = s.outputs();
  const int64_t wide = padded(out);
  const float* turned = laid_out(arena, s, false);
  Pool::instance().run((s.tokens + BLOCK - 1) / BLOCK, 1, [&](int64_t block, int) {
    const int64_t first = block * BLOCK, count = std::min(BLOCK, s.tokens - first);
    float products[BLOCK * MOST_WIDE];
    small_product(count, wide, width, Lines{{x + first * width, width}},
                  [&](int64_t p) { return turned + p * wide; },
                  [&](int64_t i) { return products + i * wide; }, false);
    for (int64_t t = first; t < first + count; ++t) {
      norm[t] = 1.0f / std::sqrt(mean_square(x + t * width, width) + s.shape.norm_eps);
      for (int64_t i = 0; i < out; ++i) z[t * out + i] = products[(t - first) * wide + i] * norm[t];
    }
    for (int64_t low = first; low < first + count; low += LANES) {
      Coefficients(s).make(z + low * out, std::min<int64_t>(LANES, first + count - low),
                           coefficients + low * out, nullptr);
    }
    with_streams(hc, [&](auto streams) {
      for (int64_t t = first; t < first + count; ++t) {
        collapse<streams()>(x + t * width, coefficients + t * out, d, u + t * d);
      }
    });
  });
}

namespace {

// The backward of a block of tokens, which stay in the second cache between the passes. Slopes of fn,
// base and scale are added to those of the block's stripe.
class ReadBack {
 public:
  ReadBack(const Streams& s, const float* x, const float* z, const float* norm,
           const float* coefficients, const float* of_u, const float* of_coefficients,
           const float* of_x, const float* fn, float* to_x)
      : s_(s), x_(x), z_(z), norm_(norm), coefficients_(coefficients), of_u_(of_u),
        of_coefficients_(of_coefficients), of_x_(of_x), fn_(fn), to_x_(to_x), width_(s.width()),
        out_(s.outputs()), wide_(padded(width_)) {}

  void run(int64_t first, int64_t count, const StreamSlopes& stripe) {
    Arena& arena = worker_arena();
    Scope scope(arena);
    float* of_z = arena.take<float>(count * out_);
    float* inner = arena.take<float>(count);  // Σ of_z · z, for the norm's slope
    for (int64_t low = first; low < first + count; low += LANES) {
      const int64_t some = std::min<int64_t>(LANES, first + count - low), at = low - first;
      coefficients_back(arena, low, some, of_z + at * out_, inner + at, stripe);
    }
    float* through = arena.take<float>(count * wide_);  // of_z · fn
    small_product(count, wide_, out_, Lines{{of_z, out_}},
                  [&](int64_t p) { return fn_ + p * wide_; },
                  [&](int64_t i) { return through + i * wide_; }, false);
    for (int64_t t = 0; t < count; ++t) of_streams(first + t, inner[t], through + t * wide_);
    const float* rows = x_ + first * width_;
    if (wide_ != width_) {
      float* copy = arena.take<float>(count * wide_);
      std::memset(copy, 0, count * wide_ * sizeof(float));
      for (int64_t t = 0; t < count; ++t) {
        std::memcpy(copy + t * wide_, rows + t * width_, width_ * sizeof(float));
      }
      rows = copy;
    }
    small_product(out_, wide_, count, Upright{{of_z, out_}},
                  [&](int64_t p) { return rows + p * wide_; },
                  [&](int64_t i) { return stripe.fn + i * wide_; }, true);
  }

 private:
  // Sixteen tokens: slopes of what the coefficients are made of, times the norm.
  void coefficients_back(Arena& arena, int64_t low, int64_t count, float* of_z, float* inner,
                         const StreamSlopes& stripe) {
    Scope scope(arena);
    float* slope = arena.take<float>(LANES * out_);
    if (of_coefficients_ == nullptr) {
      std::memset(slope, 0, LANES * out_ * sizeof(float));
    } else {
      std::memcpy(slope, of_coefficients_ + low * out_, count * out_ * sizeof(float));
    }
    with_streams(s_.shape.streams, [&](auto streams) {
      const int64_t d = s_.shape.d;
      for (int64_t t = 0; t < count; ++t) {
        collapse_back<streams()>(x_ + (low + t) * width_, of_u_ + (low + t) * d, d, slope + t * out_);
      }
    });
    Coefficients each(s_);
    v16* totals = arena.take<v16>(each.steps() + s_.shape.streams);
    float* again = arena.take<float>(LANES * out_);
    float* of_logits = arena.take<float>(LANES * out_);
    const float* z = z_ + low * out_;
    each.make(z, count, again, totals);
    each.back(z, again, slope, count, totals, of_logits, of_z);
    for (int64_t t = 0; t < count; ++t) {
      inner[t] = 0;
      for (int64_t i = 0, at = t * out_; i < out_; ++i, ++at) {
        stripe.base[i] += of_logits[at];
        stripe.scale[each.part(i)] += of_logits[at] * z[at];
        inner[t] += of_z[at] * z[at];
        of_z[at] *= norm_[low + t];
      }
    }
  }

  // dx = of_x + pre · du + of_z · fn, and what comes through the norm
  void of_streams(int64_t t, float inner, const float* through) const {
    const int64_t hc = s_.shape.streams, d = s_.shape.d;
    const v16 factor = splat(-inner * norm_[t] * norm_[t] / width_);
    const float *du = of_u_ + t * d, *pre = coefficients_ + t * out_;
    for (int64_t j = 0; j < hc; ++j) {
      const int64_t row = t * width_ + j * d;
      by_lanes(d, [&](int64_t i, int64_t left) DSV4_INLINE {
        v16 total = of_x_ == nullptr ? zero() : read_some(of_x_ + row + i, left);
        total = fma(splat(pre[j]), read_some(du + i, left), total);
        total = fma(factor, read_some(x_ + row + i, left), total);
        write_some(to_x_ + row + i, total + read_some(through + j * d + i, left), left);
      });
    }
  }

  const Streams& s_;
  const float *x_, *z_, *norm_, *coefficients_, *of_u_, *of_coefficients_, *of_x_, *fn_;
  float* to_x_;
  int64_t width_, out_, wide_;
};

}  // namespace

void train_read_back(const Streams& s, const float* x, const float* z, const float* norm,
                     const float* coefficients, const float* of_u, const float* of_coefficients,
                     const float* of_x, const StreamSlopes& to) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  Scope scope(arena);
  const int64_t width = s.width(), out = s.outputs(), wide = padded(width), scales = s.head ? 1 : 3;
  const int64_t blocks = (s.tokens + BLOCK - 1) / BLOCK, stripes = std::min(STRIPES, blocks);
  const int64_t size = out * wide + out + scales;  // of a stripe: fn | base | scale
  float* parts = arena.take<float>(stripes * size);
  ReadBack back(s, x, z, norm, coefficients, of_u, of_coefficients, of_x, laid_out(arena, s, true),
                to.x);
  pool.run(stripes, 1, [&](int64_t stripe, int) {
    float* fn = parts + stripe * size;
    std::memset(fn, 0, size * sizeof(float));
    for (int64_t i = stripe * blocks / stripes; i < (stripe + 1) * blocks / stripes; ++i) {
      back.run(i * BLOCK, std::min(BLOCK, s.tokens - i * BLOCK),
               {nullptr, fn, fn + out * wide + out, fn + out * wide});
    }
  });
  // stripes are added in order
  const auto add = [&](float* sums, int64_t from, int64_t count) {
    std::memset(sums, 0, count * sizeof(float));
    for (int64_t stripe = 0; stripe < stripes; ++stripe) {
      const float* part = parts + stripe * size + from;
      for (int64_t i = 0; i < count; ++i) sums[i] += part[i];
    }
  };
  pool.run(out, 1, [&](int64_t i, int) { add(to.fn + i * width, i * wide, width); });
  add(to.base, out * wide, out);
  add(to.scale, out * wide + out, scales);
}

void train_write(const HyperShape& s, int64_t tokens, const float* x, const float* y,
                 const float* coefficients, float* written) {
  const int64_t hc = s.streams, d = s.d, out = (2 + hc) * hc;
  with_streams(hc, [&](auto streams) {
    constexpr int HC = decltype(streams)::value;
    Pool::instance().run(tokens, LANES, [&](int64_t t, int) {
      const float *post = coefficients + t * out + HC, *comb = post + HC;
      const float* rows = x + t * HC * d;
      float* to = written + t * HC * d;
      by_lanes(d, [&](int64_t i, int64_t left) DSV4_INLINE {
        v16 old[HC];
        for (int j = 0; j < HC; ++j) old[j] = read_some(rows + j * d + i, left);
        const v16 added = read_some(y + t * d + i, left);
        for (int k = 0; k < HC; ++k) {
          v16 total = comb[k] * old[0];
          for (int j = 1; j < HC; ++j) total = fma(splat(comb[j * HC + k]), old[j], total);
          write_some(to + k * d + i, fma(splat(post[k]), added, total), left);
        }
      });
    });
  });
}

void train_write_back(const HyperShape& s, int64_t tokens, const float* x, const float* y,
                      const float* coefficients, const float* slope, float* to_x, float* to_y,
                      float* to_coefficients) {
  const int64_t hc = s.streams, d = s.d, out = (2 + hc) * hc;
  with_streams(hc, [&](auto streams) {
    constexpr int HC = decltype(streams)::value;
    Pool::instance().run(tokens, LANES, [&](int64_t t, int) {
      const float *post = coefficients + t * out + HC, *comb = post + HC;
      const float *rows = x + t * HC * d, *g = slope + t * HC * d;
      float *to = to_x + t * HC * d, *of = to_coefficients + t * out;
      v16 of_post[HC] = {}, of_comb[HC * HC] = {};
      by_lanes(d, [&](int64_t i, int64_t left) DSV4_INLINE {
        v16 dx[HC];
        for (int k = 0; k < HC; ++k) dx[k] = read_some(g + k * d + i, left);
        const v16 added = read_some(y + t * d + i, left);
        v16 dy = zero();
        for (int k = 0; k < HC; ++k) {
          dy = fma(splat(post[k]), dx[k], dy);
          of_post[k] = fma(added, dx[k], of_post[k]);
        }
        write_some(to_y + t * d + i, dy, left);
        for (int j = 0; j < HC; ++j) {
          const v16 old = read_some(rows + j * d + i, left);
          v16 total = zero();
          for (int k = 0; k < HC; ++k) {
            total = fma(splat(comb[j * HC + k]), dx[k], total);
            of_comb[j * HC + k] = fma(old, dx[k], of_comb[j * HC + k]);
          }
          write_some(to + j * d + i, total, left);
        }
      });
      for (int j = 0; j < HC; ++j) of[j] = 0;
      for (int k = 0; k < HC; ++k) of[HC + k] = sum(of_post[k]);
      for (int i = 0; i < HC * HC; ++i) of[2 * HC + i] = sum(of_comb[i]);
    });
  });
}

}  // namespace dsv4::DSV4_ISA
