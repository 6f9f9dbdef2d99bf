#include "matmul.h"

#include <array>

namespace dsv4::DSV4_ISA {
namespace {

constexpr int TILE = 4;           // rows of x and rows of w in a register tile
constexpr int PANEL = 16;         // rows of w unpacked at a time
constexpr int64_t AHEAD = 4096;   // bytes between what is read and what is asked for
constexpr int64_t TASK = 524288;   // bytes of weight that one task reads, at least
constexpr int64_t SHARES = 16;    // tasks of a large weight for each thread

// ---- one row of x: multiply while unpacking -----------------------------------------------------

template <class Row>
void dot_rows(const Matrix& w, int64_t first, int count, const typename Row::Operand::Type* x,
              bool scaled, float* y) {
  using Operand = typename Row::Operand;
  const int64_t groups = groups_of(w.columns);
  const auto at = [&](int i) { return first + std::min(i, count - 1); };
  // named one by one, so that they stay in registers
  Row row0(w, at(0), scaled), row1(w, at(1), scaled), row2(w, at(2), scaled), row3(w, at(3), scaled);
  v16 sum0{}, sum1{}, sum2{}, sum3{};
  using Vector = typename Operand::Vector;
  // ask memory for rows that come next: whole tiles of rows ahead, AHEAD bytes or a little more
  const int64_t row_bytes = w.row_bytes(), some = TILE * row_bytes / groups;
  const int64_t tiles = std::max<int64_t>(AHEAD / (TILE * row_bytes), 1);
  const uint8_t* next = w.row(first + tiles * TILE);
  for (int64_t group = 0; group < groups; ++group) {
    Vector a[Row::VECTORS];
    for (int v = 0; v < Row::VECTORS; ++v) {
      a[v] = Operand::read(x + group * GROUP + v * Operand::COUNT);
    }
    const uint8_t* wanted = next + group * some;
    for (int64_t i = 0; i < some; i += 64) __builtin_prefetch(wanted + i);
    const auto add = [&](Row& row, v16& sum) {
      Vector out[Row::VECTORS];
      row.at(group, out);
      for (int v = 0; v < Row::VECTORS; ++v) sum = Operand::accumulate(sum, a[v], out[v]);
    };
    add(row0, sum0);
    add(row1, sum1);
    add(row2, sum2);
    add(row3, sum3);
  }
  const float found[TILE] = {sum(sum0), sum(sum1), sum(sum2), sum(sum3)};
  std::memcpy(y, found, count * sizeof(float));
}

// ---- many rows of x: unpack a panel, run tiles over it ------------------------------------------

// Sums over lanes of sixteen vectors at once, by the tree of `sum`; v[4·o + t] → y[t][o].
inline void sum_tile(const v16* v, float y[TILE][TILE]) {
#if defined(__AVX512F__)
  const auto fold8 = [](v16 a, v16 b) {
    const __m512 x = (__m512)a, z = (__m512)b;
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, z, 0x44), _mm512_shuffle_f32x4(x, z, 0xEE));
  };
  const auto fold4 = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  };
  __m512 q[4];
  for (int o = 0; o < 4; ++o) {  // four lanes of each t
    q[o] = fold4(fold8(v[4 * o], v[4 * o + 1]), fold8(v[4 * o + 2], v[4 * o + 3]));
  }
  const auto fold2 = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
  };
  const __m512 h0 = fold2(q[0], q[1]), h1 = fold2(q[2], q[3]);
  const __m512 all =
      _mm512_add_ps(_mm512_shuffle_ps(h0, h1, 0x88), _mm512_shuffle_ps(h0, h1, 0xDD));
  _mm512_storeu_ps(&y[0][0], all);  // 128-bit lane t holds o = 0 … 3
#else
  for (int o = 0; o < TILE; ++o) {
    for (int t = 0; t < TILE; ++t) y[t][o] = sum(v[4 * o + t]);
  }
#endif
}

template <class Operand>
inline void tile(const typename Operand::Type* const x[TILE],
                 const typename Operand::Type* w, int64_t stride, int64_t places,
                 float y[TILE][TILE]) {
  v16 sums[TILE * TILE] = {};
  for (int64_t k = 0; k < places; k += Operand::COUNT) {
    typename Operand::Vector a[TILE];
    for (int t = 0; t < TILE; ++t) a[t] = Operand::read(x[t] + k);
    for (int o = 0; o < TILE; ++o) {
      const auto b = Operand::read(w + o * stride + k);
      for (int t = 0; t < TILE; ++t) {
        sums[4 * o + t] = Operand::accumulate(sums[4 * o + t], a[t], b);
      }
    }
  }
  sum_tile(sums, y);
}

template <class Row>
void panel_product(const Product& p, int64_t first, int64_t last) {
  using Operand = typename Row::Operand;
  using Type = typename Operand::Type;
  Arena& arena = worker_arena();
  Scope scope(arena);
  const int64_t groups = groups_of(p.w->columns), places = groups * GROUP;
  Type* panel = arena.take<Type>(PANEL * places);
  for (int64_t row = first; row < last; row += PANEL) {
    const int rows = static_cast<int>(std::min<int64_t>(PANEL, last - row));
    for (int i = 0; i < (rows + TILE - 1) / TILE * TILE; ++i) {
      Row reader(*p.w, row + std::min(i, rows - 1), true);
      for (int64_t group = 0; group < groups; ++group) {
        typename Operand::Vector out[Row::VECTORS];
        reader.at(group, out);
        for (int v = 0; v < Row::VECTORS; ++v) {
          Operand::write(panel + i * places + group * GROUP + v * Operand::COUNT, out[v]);
        }
      }
    }
    for (int64_t t = 0; t < p.count; t += TILE) {
      const int tokens = static_cast<int>(std::min<int64_t>(TILE, p.count - t));
      const Type* x[TILE];
      float* y[TILE];
      for (int i = 0; i < TILE; ++i) {
        const int64_t at = t + std::min(i, tokens - 1);
        x[i] = p.x->row<Type>(p.x_rows ? p.x_rows[at] : at);
        y[i] = p.y + (p.y_rows ? p.y_rows[at] : at) * p.y_stride + (row - p.first);
      }
      for (int o = 0; o < rows; o += TILE) {
        float out[TILE][TILE];
        tile<Operand>(x, panel + o * places, places, places, out);
        const int width = std::min(TILE, rows - o);
        for (int i = 0; i < tokens; ++i) std::memcpy(y[i] + o, out[i], width * sizeof(float));
      }
    }
  }
}

// ---- one product's share of a region -------------------------------------------------------------

template <class Row>
void share(const Product& p, const void* scaled, int64_t first, int64_t last) {
  if (p.count != 1) return panel_product<Row>(p, first, last);
  using Type = typename Row::Operand::Type;
  const Type* x = p.x->row<Type>(p.x_rows ? p.x_rows[0] : 0);
  float* y = p.y + (p.y_rows ? p.y_rows[0] : 0) * p.y_stride;
  for (int64_t row = first; row < last;) {
    int64_t end = std::min<int64_t>(row + TILE, last);
    const Type* operands = x;
    if (scaled != nullptr) {  // rows of one call share a block
      const int64_t block = row / FP8_BLOCK;
      end = std::min(end, (block + 1) * FP8_BLOCK);
      operands = static_cast<const Type*>(scaled) + (block - p.first / FP8_BLOCK) * p.x->stride;
    }
    dot_rows<Row>(*p.w, row, static_cast<int>(end - row), operands, false, y + (row - p.first));
    row = end;
  }
}

using Share = void (*)(const Product&, const void*, int64_t, int64_t);

Share share_of(Format format, Precision precision) {
  switch (format) {
    case Format::F32: return share<F32Row>;
    case Format::BF16: return precision == Precision::FULL ? share<Bf16AsFloatRow> : share<Bf16Row>;
    case Format::FP8: return share<Fp8Row>;
    case Format::FP4: return share<Fp4Row>;
  }
  return nullptr;
}

// One row of floats as operands, in the order in which Row delivers columns; zeros at the end.
// `scale`: a factor for each 128 columns.
template <class Row>
void lay_out(const float* x, int64_t columns, const float* scale,
             typename Row::Operand::Type* out) {
  for (int64_t group = 0; group < groups_of(columns); ++group, out += GROUP) {
    const float* from = x + group * GROUP;
    float padded[GROUP];
    if (columns - group * GROUP < GROUP) {
      std::memset(padded, 0, sizeof padded);
      std::memcpy(padded, from, (columns - group * GROUP) * sizeof(float));
      from = padded;
    }
    const float factor = scale == nullptr ? 1.0f : scale[group * GROUP / FP8_BLOCK];
#if DSV4_DOT_BF16
    if constexpr (sizeof(*out) == 2) {
      static const auto order = [] {
        std::array<uint16_t, GROUP> found;
        for (int64_t i = 0; i < GROUP; ++i) found[i] = static_cast<uint16_t>(Row::column(i));
        return found;
      }();
      const auto pair = [&](int64_t i) {
        const v16 first = load(from + i) * factor, second = load(from + i + LANES) * factor;
        return (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
      };
      const __m512i low = pair(0), high = pair(32);
      for (int64_t i = 0; i < GROUP; i += 32) {
        const __m512i places = _mm512_loadu_si512(order.data() + i);
        _mm512_storeu_si512(out + i, _mm512_permutex2var_epi16(low, places, high));
      }
      continue;
    }
#endif
    for (int64_t i = 0; i < GROUP; ++i) out[i] = from[Row::column(i)] * factor;
  }
}

template <class Row>
void lay_out_rows(Pool& pool, const Arranged& to, void* data) {
  using Type = typename Row::Operand::Type;
  pool.run(to.rows, 8, [&](int64_t r, int) {
    lay_out<Row>(to.source + r * to.source_stride, to.columns, nullptr,
                 static_cast<Type*>(data) + r * to.stride);
  });
}

// FP8 weights, one row of x: x times the scales of each 128-row block of w, [blocks, stride].
const void* scale_activations(const Product& p, Arena& arena) {
  const Arranged& x = *p.x;
  const float* source = x.source + (p.x_rows ? p.x_rows[0] : 0) * x.source_stride;
  const int64_t first = p.first / FP8_BLOCK, blocks = (p.last - 1) / FP8_BLOCK - first + 1;
  Low* out = arena.take<Low>(blocks * x.stride);
  for (int64_t b = 0; b < blocks; ++b) {
    lay_out<Fp8Row>(source, x.columns, p.w->row_fp8_scale((first + b) * FP8_BLOCK),
                    out + b * x.stride);
    if (sizeof(Low) == 4) {
      store_precision(reinterpret_cast<float*>(out + b * x.stride), x.stride, true);
    }
  }
  return out;
}

}  // namespace

Arranged arrange(Pool& pool, const float* x, int64_t rows, int64_t columns, int64_t source_stride,
                 Format format, Precision precision, Arena& arena) {
  Arranged found{format, precision, rows, columns, groups_of(columns) * GROUP,
                 nullptr, x, source_stride};
  const bool low = precision == Precision::LOW && format != Format::F32;
  if (format == Format::F32 && columns % GROUP == 0) {  // as they lie
    found.stride = source_stride;
    found.data = x;
    return found;
  }
  const int64_t width = low ? sizeof(Low) : sizeof(float);
  void* out = arena.take<char>(rows * found.stride * width);
  found.data = out;
  if (format == Format::F32) {
    lay_out_rows<F32Row>(pool, found, out);
  } else if (!low) {
    lay_out_rows<Bf16AsFloatRow>(pool, found, out);
  } else {
    if (format == Format::FP8) lay_out_rows<Fp8Row>(pool, found, out);
    else if (format == Format::FP4) lay_out_rows<Fp4Row>(pool, found, out);
    else lay_out_rows<Bf16Row>(pool, found, out);
    if (sizeof(Low) == 4) store_precision(static_cast<float*>(out), rows * found.stride, true);
  }
  return found;
}

void multiply(Pool& pool, const std::vector<Product>& products, Arena& arena) {
  struct Task {
    int32_t product;
    int32_t first, last;
  };
  Scope scope(arena);
  static thread_local std::vector<Task> tasks;
  static thread_local std::vector<const void*> scaled;
  tasks.clear();
  scaled.assign(products.size(), nullptr);
  for (size_t i = 0; i < products.size(); ++i) {
    const Product& p = products[i];
    if (p.count == 0 || p.first == p.last) continue;
    if (p.count == 1 && p.w->format == Format::FP8) scaled[i] = scale_activations(p, arena);
    const int64_t bytes = std::max<int64_t>(p.w->row_bytes(), 1), total = p.last - p.first;
    int64_t rows = PANEL;
    if (p.count == 1) {  // long runs, so that memory is asked for in time; enough of them to share
      rows = std::max(TASK / bytes, total / (pool.threads() * SHARES)) / TILE * TILE;
      rows = std::min(rows, (total / pool.threads() + TILE - 1) / TILE * TILE);
    }
    rows = std::max<int64_t>(rows, TILE);
    for (int64_t row = p.first; row < p.last; row += rows) {
      tasks.push_back({static_cast<int32_t>(i), static_cast<int32_t>(row),
                       static_cast<int32_t>(std::min(row + rows, p.last))});
    }
  }
  // the caller's vectors, since a worker has thread_local ones of its own
  const Task* list = tasks.data();
  const void* const* operands = scaled.data();
  pool.run(static_cast<int64_t>(tasks.size()), 1, [&](int64_t task, int) {
    const Task& t = list[task];
    const Product& p = products[t.product];
    share_of(p.w->format, p.x->precision)(p, operands[t.product], t.first, t.last);
  });
}

}  // namespace dsv4::DSV4_ISA
