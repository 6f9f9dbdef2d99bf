// Rows of [rows, c]: RMSNorm, and the last channels turned by the position's angles.
#include "training_isa.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int64_t CHUNK = 64;  // rows of one task, whose slopes of the weight are added first

// Pairs of channels turned: [cosine, sine] of each pair in `angles`.
void turn(const Rows& s, int64_t row, const float* from, float* to, bool back) {
  const int64_t plain = s.c - s.rotary;
  const float* angles = s.angles + row / s.together % s.positions * s.rotary;
  for (int64_t j = 0; j < s.rotary; j += 2) {
    const float cosine = angles[j], sine = back ? -angles[j + 1] : angles[j + 1];
    const float a = from[plain + j], b = from[plain + j + 1];
    to[plain + j] = a * cosine - b * sine;
    to[plain + j + 1] = a * sine + b * cosine;
  }
}

float inverse_norm(const Rows& s, const float* x) {
  v16 total = zero();
  for (int64_t i = 0; i < s.c; i += LANES) {
    const v16 v = read_some(x + i, s.c - i);
    total = fma(v, v, total);
  }
  return 1.0f / std::sqrt(sum(total) / s.c + s.eps);
}

v16 weight_of(const Rows& s, int64_t i) {
  return s.weight == nullptr ? splat(1.0f) : read_some(s.weight + i, s.c - i);
}

}  // namespace

void train_rows(const Rows& s, const float* x, float* y) {
  Pool::instance().run((s.rows + CHUNK - 1) / CHUNK, 1, [&](int64_t chunk, int) {
    for (int64_t row = chunk * CHUNK; row < std::min(s.rows, (chunk + 1) * CHUNK); ++row) {
      const float* from = x + row * s.c;
      float* to = y + row * s.c;
      const v16 norm = splat(s.normalises ? inverse_norm(s, from) : 1.0f);
      for (int64_t i = 0; i < s.c; i += LANES) {
        write_some(to + i, read_some(from + i, s.c - i) * norm * weight_of(s, i), s.c - i);
      }
      if (s.rotary > 0) turn(s, row, to, to, s.back);
    }
  });
}

void train_rows_back(const Rows& s, const float* x, const float* slope, float* to_x,
                     float* to_weight) {
  Pool& pool = Pool::instance();
  Arena& arena = caller_arena();
  Scope scope(arena);
  const int64_t chunks = (s.rows + CHUNK - 1) / CHUNK;
  float* parts = to_weight == nullptr ? nullptr : arena.take<float>(chunks * s.c);
  pool.run(chunks, 1, [&](int64_t chunk, int) {
    float* part = parts == nullptr ? nullptr : parts + chunk * s.c;
    if (part != nullptr) std::memset(part, 0, s.c * sizeof(float));
    for (int64_t row = chunk * CHUNK; row < std::min(s.rows, (chunk + 1) * CHUNK); ++row) {
      const float *from = x + row * s.c, *g = slope + row * s.c;
      float* to = to_x + row * s.c;
      std::memcpy(to, g, (s.c - s.rotary) * sizeof(float));
      if (s.rotary > 0) turn(s, row, g, to, !s.back);
      if (!s.normalises) continue;
      const float norm = inverse_norm(s, from);
      v16 along = zero();
      for (int64_t i = 0; i < s.c; i += LANES) {
        const int64_t left = s.c - i;
        const v16 given = read_some(from + i, left), of = read_some(to + i, left);
        along = fma(given, of * weight_of(s, i), along);
        if (part != nullptr) write_some(part + i, fma(of, given * norm, read_some(part + i, left)), left);
      }
      const v16 factor = splat(-sum(along) * norm * norm * norm / s.c);
      for (int64_t i = 0; i < s.c; i += LANES) {
        const int64_t left = s.c - i;
        const v16 straight = read_some(to + i, left) * weight_of(s, i) * norm;
        write_some(to + i, fma(factor, read_some(from + i, left), straight), left);
      }
    }
  });
  if (parts == nullptr) return;
  std::memset(to_weight, 0, s.c * sizeof(float));
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int64_t i = 0; i < s.c; ++i) to_weight[i] += parts[chunk * s.c + i];
  }
}

// A row is read from memory once: it stays in the second cache between the passes.
void train_surprise(int64_t rows, int64_t words, const int64_t* targets, float factor, float* logits,
                    float* losses) {
  Pool::instance().run(rows, 1, [&](int64_t row, int) {
    float* line = logits + row * words;
    v16 top = splat(-INFINITY), total = zero();
    int64_t i = 0;
    for (; i + LANES <= words; i += LANES) top = maximum(top, load(line + i));
    float highest = top[0];
    for (int l = 1; l < LANES; ++l) highest = std::max(highest, top[l]);
    for (; i < words; ++i) highest = std::max(highest, line[i]);
    for (i = 0; i + LANES <= words; i += LANES) total += exponential(load(line + i) - highest);
    float sums = sum(total);
    for (; i < words; ++i) sums += exponential(splat(line[i] - highest))[0];
    const float level = highest + std::log(sums);
    const bool real = targets[row] >= 0;
    losses[row] = real ? level - line[targets[row]] : 0.0f;
    if (factor == 0) return;
    const v16 scale = splat(real ? factor : 0.0f);
    for (i = 0; i < words; i += LANES) {
      const v16 p = exponential(read_some(line + i, words - i) - level);
      write_some(line + i, p * scale, words - i);
    }
    if (real) line[targets[row]] -= factor;
  });
}

// Per channel: y = Σ_t softmax_t(scores) · values, values and scores [blocks, depth, c].
void train_pool(int64_t blocks, int64_t depth, int64_t c, const float* values, const float* scores,
                float* y) {
  Pool::instance().run(blocks, 1, [&](int64_t block, int) {
    for (int64_t i = 0; i < c; i += LANES) {
      const int64_t first = block * depth * c + i, left = c - i;
      v16 top = read_some(scores + first, left), total = zero(), sum = zero();
      for (int64_t t = 1; t < depth; ++t) top = maximum(top, read_some(scores + first + t * c, left));
      for (int64_t t = 0; t < depth; ++t) {
        const v16 e = exponential(read_some(scores + first + t * c, left) - top);
        total += e;
        sum = fma(e, read_some(values + first + t * c, left), sum);
      }
      write_some(y + block * c + i, sum / total, left);
    }
  });
}

void train_pool_back(int64_t blocks, int64_t depth, int64_t c, const float* values,
                     const float* scores, const float* y, const float* slope, float* to_values,
                     float* to_scores) {
  Pool::instance().run(blocks, 1, [&](int64_t block, int) {
    for (int64_t i = 0; i < c; i += LANES) {
      const int64_t first = block * depth * c + i, left = c - i;
      v16 top = read_some(scores + first, left), total = zero();
      for (int64_t t = 1; t < depth; ++t) top = maximum(top, read_some(scores + first + t * c, left));
      for (int64_t t = 0; t < depth; ++t) {
        total += exponential(read_some(scores + first + t * c, left) - top);
      }
      const v16 g = read_some(slope + block * c + i, left), out = read_some(y + block * c + i, left);
      for (int64_t t = 0; t < depth; ++t) {
        const int64_t at = first + t * c;
        const v16 p = exponential(read_some(scores + at, left) - top) / total;
        write_some(to_values + at, p * g, left);
        write_some(to_scores + at, p * g * (read_some(values + at, left) - out), left);
      }
    }
  });
}

}  // namespace dsv4::DSV4_ISA
