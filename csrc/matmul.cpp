#include "matmul.h"

#include <array>

#include "dot.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int PANEL = 16;         // rows of w unpacked at a time
constexpr int64_t TASK = 524288;  // bytes of weight that one task reads, at least
constexpr int64_t SHARES = 16;    // tasks of a large weight for each thread
constexpr int64_t FEW = 8;        // so many rows of x multiply while w is unpacked

// Calls f(shared, first, last) for the rows [first, last) of w in runs that share a block of 128.
template <class Row, class F>
void each_block(const Matrix& w, int64_t first, int64_t last, Arena& arena, F&& f) {
  while (first < last) {
    const int64_t end = std::min(last, (first / FP8_BLOCK + 1) * FP8_BLOCK);
    Scope scope(arena);
    const typename Row::Shared shared(w, first, arena);
    f(shared, first, end);
    first = end;
  }
}

// ---- few rows of x: multiply while unpacking -----------------------------------------------------

// T rows of x side by side, group by group: [groups, T, GROUP].
template <int T, class Type>
const Type* interleave(const Product& p, int64_t groups, Arena& arena) {
  const auto row = [&](int t) { return p.x->row<Type>(p.x_rows ? p.x_rows[t] : t); };
  if (T == 1) return row(0);
  Type* out = arena.take<Type>(groups * T * GROUP);
  for (int t = 0; t < T; ++t) {
    const Type* from = row(t);
    for (int64_t group = 0; group < groups; ++group) {
      std::memcpy(out + (group * T + t) * GROUP, from + group * GROUP, GROUP * sizeof(Type));
    }
  }
  return out;
}

template <class Row, int T>
void few_product(const Product& p, int64_t first, int64_t last) {
  Arena& arena = worker_arena();
  Scope scope(arena);
  const auto* x = interleave<T, typename Row::Operand::Type>(p, groups_of(p.w->columns), arena);
  float* y[T];
  for (int t = 0; t < T; ++t) {
    y[t] = p.y + (p.y_rows ? p.y_rows[t] : t) * p.y_stride + (first - p.first);
  }
  each_block<Row>(*p.w, first, last, arena, [&](const auto& shared, int64_t row, int64_t end) {
    while (row < end) {
      const int count = static_cast<int>(std::min<int64_t>(SIDE<T>, end - row));
      dot_rows<Row, T>(*p.w, row, count, shared, x, y);
      for (int t = 0; t < T; ++t) y[t] += count;
      row += count;
    }
  });
}

// ---- many rows of x: unpack a panel, run tiles over it ------------------------------------------

template <class Row>
void panel_product(const Product& p, int64_t first, int64_t last) {
  using Operand = typename Row::Operand;
  using Type = typename Operand::Type;
  Arena& arena = worker_arena();
  Scope scope(arena);
  const int64_t places = groups_of(p.w->columns) * GROUP;
  Type* panel = arena.take<Type>(PANEL * places);
  const auto multiply_panel = [&](int64_t row, int rows) {
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
  };
  each_block<Row>(*p.w, first, last, arena, [&](const auto& shared, int64_t row, int64_t end) {
    for (; row < end; row += PANEL) {
      const int rows = static_cast<int>(std::min<int64_t>(PANEL, end - row));
      for (int i = 0; i < rows; i += TILE) {
        unpack_rows<Row>(*p.w, row + i, std::min(TILE, rows - i), shared, panel + i * places);
      }
      multiply_panel(row, rows);
    }
  });
}

// ---- one product's share of a region -------------------------------------------------------------

template <class Row>
void share(const Product& p, int64_t first, int64_t last) {
  switch (p.count) {
    case 1: return few_product<Row, 1>(p, first, last);
    case 2: return few_product<Row, 2>(p, first, last);
    case 3: return few_product<Row, 3>(p, first, last);
    case 4: return few_product<Row, 4>(p, first, last);
    case 5: return few_product<Row, 5>(p, first, last);
    case 6: return few_product<Row, 6>(p, first, last);
    case 7: return few_product<Row, 7>(p, first, last);
    case FEW: return few_product<Row, FEW>(p, first, last);
    default: return panel_product<Row>(p, first, last);
  }
}

using Share = void (*)(const Product&, int64_t, int64_t);

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
template <class Row>
void lay_out(const float* x, int64_t columns, typename Row::Operand::Type* out) {
  for (int64_t group = 0; group < groups_of(columns); ++group, out += GROUP) {
    const float* from = x + group * GROUP;
    float padded[GROUP];
    if (columns - group * GROUP < GROUP) {
      std::memset(padded, 0, sizeof padded);
      std::memcpy(padded, from, (columns - group * GROUP) * sizeof(float));
      from = padded;
    }
#if DSV4_DOT_BF16
    if constexpr (sizeof(*out) == 2) {
      static const auto order = [] {
        std::array<uint16_t, GROUP> found;
        for (int64_t i = 0; i < GROUP; ++i) found[i] = static_cast<uint16_t>(Row::column(i));
        return found;
      }();
      const auto pair = [&](int64_t i) {
        const v16 first = load(from + i), second = load(from + i + LANES);
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
    for (int64_t i = 0; i < GROUP; ++i) out[i] = from[Row::column(i)];
  }
}

template <class Row>
void lay_out_rows(Pool& pool, const Arranged& to, void* data) {
  using Type = typename Row::Operand::Type;
  pool.run(to.rows, 8, [&](int64_t r, int) {
    lay_out<Row>(to.source + r * to.source_stride, to.columns,
                 static_cast<Type*>(data) + r * to.stride);
  });
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

void multiply(Pool& pool, const std::vector<Product>& products) {
  struct Task {
    int32_t product;
    int32_t first, last;
  };
  static thread_local std::vector<Task> tasks;
  tasks.clear();
  for (size_t i = 0; i < products.size(); ++i) {
    const Product& p = products[i];
    if (p.count == 0 || p.first == p.last) continue;
    const int64_t bytes = std::max<int64_t>(p.w->row_bytes(), 1), total = p.last - p.first;
    int64_t rows = PANEL;
    if (p.count <= FEW) {  // long runs, so that memory is asked for in time; enough of them to share
      rows = std::max(TASK / bytes, total / (pool.threads() * SHARES)) / TILE * TILE;
      rows = std::min(rows, (total / pool.threads() + TILE - 1) / TILE * TILE);
    }
    rows = std::max<int64_t>(rows, TILE);
    for (int64_t row = p.first; row < p.last; row += rows) {
      tasks.push_back({static_cast<int32_t>(i), static_cast<int32_t>(row),
                       static_cast<int32_t>(std::min(row + rows, p.last))});
    }
  }
  const Task* list = tasks.data();  // the caller's, since a worker has a thread_local one of its own
  pool.run(static_cast<int64_t>(tasks.size()), 1, [&](int64_t task, int) {
    const Task& t = list[task];
    const Product& p = products[t.product];
    share_of(p.w->format, p.x->precision)(p, t.first, t.last);
  });
}

}  // namespace dsv4::DSV4_ISA
