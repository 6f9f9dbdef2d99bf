#include "product.h"

#include "tile.h"

namespace dsv4::DSV4_ISA {
namespace {

constexpr int64_t DEPTH = 256;     // of k, summed at a time: a panel of b stays in the first cache
constexpr int64_t WIDTH = 4096;    // columns of b that are laid out at a time
constexpr int64_t PANELS = 4;      // of TILE_ROWS rows of a, in one task
constexpr int64_t CHUNK = 256;     // columns of one task

// The first `count` of sixteen lanes, 0 < count < 16, from and to memory that holds no more.
inline v16 read_part(const float* p, int64_t count) {
#if defined(__AVX512F__)
  return (v16)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#else
  return load_part(p, count);
#endif
}
template <class V>
inline void write_part(void* p, V v, int64_t count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_epi32(p, static_cast<__mmask16>((1u << count) - 1), (__m512i)v);
#else
  std::memcpy(p, &v, count * sizeof(float));
#endif
}

// Floats as they are, or rounded where there are no instructions for pairs.
template <bool ROUNDS>
struct Floats {
  using Number = Single;
  static constexpr bool DIRECT = !ROUNDS;  // a may be read where it lies
  static v16 value(v16 x) { return ROUNDS ? round_bf16(x) : x; }
  static void row(const float* from, int64_t count, float* to) {
    int64_t p = 0;
    for (; p + LANES <= count; p += LANES) store(to + p, value(load(from + p)));
    for (; p < count; ++p) to[p] = ROUNDS ? round_bf16(from[p]) : from[p];
  }
  // `columns` numbers of each of the rows at(0) … at(count − 1): to [count, width], zeros beyond.
  template <class At>
  static void columns(const At& at, int64_t count, int64_t columns, int64_t width, float* to) {
    for (int64_t p = 0; p < count; ++p, to += width) {
      const float* from = at(p);
      int64_t j = 0;
      for (; j + LANES <= columns; j += LANES) store(to + j, value(load(from + j)));
      if (j < columns) write_part(to + j, value(read_part(from + j, columns - j)), columns - j);
      for (j = columns; j < width; ++j) to[j] = 0;
    }
  }
};

#if defined(__AVX512BF16__)
struct Pairs {
  using Number = Pair;
  static constexpr bool DIRECT = false;
  static uint32_t pair(float even, float odd) {
    return to_bf16(even) | static_cast<uint32_t>(to_bf16(odd)) << 16;
  }
  static void row(const float* from, int64_t count, uint32_t* to) {
    int64_t p = 0;
    for (; p + 2 * LANES <= count; p += 2 * LANES) {
      const auto both = _mm512_cvtne2ps_pbh((__m512)load(from + p + LANES), (__m512)load(from + p));
      std::memcpy(to + p / 2, &both, sizeof both);
    }
    for (; p < count; p += 2) to[p / 2] = pair(from[p], p + 1 < count ? from[p + 1] : 0.0f);
  }
  template <class At>
  static void columns(const At& at, int64_t count, int64_t columns, int64_t width, uint32_t* to) {
    for (int64_t p = 0; p < count; p += 2, to += width) {
      const float* even = at(p);
      const float* odd = p + 1 < count ? at(p + 1) : nullptr;
      int64_t j = 0;
      for (; j + LANES <= columns; j += LANES) {
        const u16 both = pairs(load(even + j), odd ? load(odd + j) : zero());
        std::memcpy(to + j, &both, sizeof both);
      }
      if (const int64_t left = columns - j; left > 0) {
        const v16 above = odd ? read_part(odd + j, left) : zero();
        write_part(to + j, pairs(read_part(even + j, left), above), left);
      }
      for (j = columns; j < width; ++j) to[j] = 0;
    }
  }
  static u16 pairs(v16 even, v16 odd) {
    const auto low = _mm512_cvtneps_pbh((__m512)even), high = _mm512_cvtneps_pbh((__m512)odd);
    return (u16)_mm512_or_si512(_mm512_cvtepu16_epi32((__m256i)low),
                                _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)high), 16));
  }
};
#endif

template <class Form>
class Multiplication {
  using Number = typename Form::Number;
  using T = typename Number::Type;

 public:
  Multiplication(Pool& pool, Arena& arena, const std::vector<MatrixProduct>& products)
      : pool_(pool), arena_(arena), products_(products), panels_(products.size() + 1),
        tasks_(products.size() + 1) {}

  void run() {
    int64_t widest = 0, deepest = 0;
    for (const MatrixProduct& p : products_) {
      if (p.k == 0 && !p.add) {
        for (int64_t i = 0; i < p.m; ++i) std::memset(p.c + i * p.c_stride, 0, p.n * sizeof(float));
      }
      if (p.m == 0) continue;
      widest = std::max(widest, p.n);
      deepest = std::max(deepest, p.k);
    }
    for (first_column_ = 0; first_column_ < widest; first_column_ += WIDTH) {
      for (first_depth_ = 0; first_depth_ < deepest; first_depth_ += DEPTH) round();
    }
  }

 private:
  // One block of columns and of k, of every product that reaches so far.
  void round() {
    Scope scope(arena_);
    for (size_t i = 0; i < products_.size(); ++i) {
      const MatrixProduct& p = products_[i];
      const bool there = p.m > 0 && p.n > first_column_ && p.k > first_depth_;
      const int64_t wide = there ? columns(p) : 0, high = there ? p.m : 0;
      panels_[i + 1] = panels_[i] + (wide + TILE_COLUMNS - 1) / TILE_COLUMNS;
      tasks_[i + 1] = tasks_[i] + groups(high) * ((wide + CHUNK - 1) / CHUNK);
    }
    T* packed = arena_.take<T>(panels_.back() * PANEL);
    pool_.run(panels_.back(), 4, [&](int64_t panel, int) { pack(panel, packed + panel * PANEL); });
    pool_.run(tasks_.back(), 1, [&](int64_t task, int) { compute(task, packed); });
  }

  int64_t columns(const MatrixProduct& p) const { return std::min(p.n - first_column_, WIDTH); }
  int64_t depth(const MatrixProduct& p) const { return std::min(p.k - first_depth_, DEPTH); }
  static int64_t groups(int64_t rows) { return (rows + GROUP - 1) / GROUP; }
  static size_t owner(const std::vector<int64_t>& firsts, int64_t task) {
    return std::upper_bound(firsts.begin(), firsts.end(), task) - firsts.begin() - 1;
  }

  void pack(int64_t panel, T* to) const {
    const size_t owner = this->owner(panels_, panel);
    const MatrixProduct& p = products_[owner];
    const int64_t first = (panel - panels_[owner]) * TILE_COLUMNS;
    const int64_t wide = std::min<int64_t>(TILE_COLUMNS, columns(p) - first), deep = depth(p);
    if (!p.b.turned) {
      Form::columns([&](int64_t k) { return p.b.row(first_depth_ + k) + first_column_ + first; },
                    deep, wide, TILE_COLUMNS, to);
      return;
    }
    T line[DEPTH];
    const int64_t numbers = (deep + Number::DEPTH - 1) / Number::DEPTH;
    for (int64_t j = 0; j < TILE_COLUMNS; ++j) {
      if (j < wide) {
        Form::row(p.b.row(first_column_ + first + j) + first_depth_, deep, line);
      } else {
        std::memset(line, 0, sizeof line);
      }
      for (int64_t i = 0; i < numbers; ++i) to[i * TILE_COLUMNS + j] = line[i];
    }
  }

  void compute(int64_t task, const T* packed) const {
    const size_t owner = this->owner(tasks_, task);
    const MatrixProduct& p = products_[owner];
    const int64_t chunks = (columns(p) + CHUNK - 1) / CHUNK, place = task - tasks_[owner];
    const int64_t top = place / chunks * GROUP, first = place % chunks * CHUNK;
    const int64_t last = std::min(first + CHUNK, columns(p));
    T lines[GROUP * DEPTH];  // rows of a as numbers, where they are not read as they lie
    for (int64_t row = top; row < std::min(top + GROUP, p.m); row += TILE_ROWS) {
      prepare(p, row, std::min<int64_t>(TILE_ROWS, p.m - row), lines + (row - top) * DEPTH);
    }
    for (int64_t column = first; column < last; column += TILE_COLUMNS) {
      const T* b = packed + (panels_[owner] + column / TILE_COLUMNS) * PANEL;
      for (int64_t row = top; row < std::min(top + GROUP, p.m); row += TILE_ROWS) {
        const int rows = static_cast<int>(std::min<int64_t>(TILE_ROWS, p.m - row));
        with_rows(rows, [&](auto m) { tile<m()>(p, row, column, lines + (row - top) * DEPTH, b); });
      }
    }
  }

  static bool direct(const Side& a) {
    return Form::DIRECT && !a.turned && a.chosen == nullptr;
  }

  void prepare(const MatrixProduct& p, int64_t first, int64_t rows, T* lines) const {
    if (direct(p.a)) return;
    if (p.a.turned) {
      Form::columns([&](int64_t k) { return p.a.row(first_depth_ + k) + first; }, depth(p), rows,
                    TILE_ROWS, lines);
      return;
    }
    for (int64_t i = 0; i < rows; ++i) {
      Form::row(p.a.row(first + i) + first_depth_, depth(p), lines + i * DEPTH);
    }
  }

  template <int M>
  void tile(const MatrixProduct& p, int64_t row, int64_t column, const T* lines, const T* b) const {
    v16 sums[M][TILE_VECTORS];
    for (int i = 0; i < M; ++i) {  // on its way to this core while the sums are made
      const float* c = p.c + (row + i) * p.c_stride + first_column_ + column;
      for (int v = 0; v < TILE_VECTORS; ++v) __builtin_prefetch(c + v * LANES, 1, 3);
    }
    const int64_t numbers = (depth(p) + Number::DEPTH - 1) / Number::DEPTH;
    const auto row_of_b = [&](int64_t k) DSV4_INLINE { return b + k * TILE_COLUMNS; };
    if (p.a.turned) {
      sum_tile<Number>(numbers, InColumns<T>{lines, TILE_ROWS}, row_of_b, sums);
    } else if (direct(p.a)) {
      if constexpr (Form::DIRECT) {
        sum_tile<Number>(numbers, InRows<T>{p.a.row(row) + first_depth_, p.a.stride}, row_of_b, sums);
      }
    } else {
      sum_tile<Number>(numbers, InRows<T>{lines, DEPTH}, row_of_b, sums);
    }
    const bool add = p.add || first_depth_ > 0;
    const int64_t wide = std::min<int64_t>(TILE_COLUMNS, columns(p) - column);
    for (int i = 0; i < M; ++i) {
      float* c = p.c + (row + i) * p.c_stride + first_column_ + column;
      for (int v = 0; v < TILE_VECTORS; ++v) write(sums[i][v], c + v * LANES, wide - v * LANES, add);
    }
  }

  static void write(v16 sum, float* c, int64_t wide, bool add) {
    if (wide >= LANES) {
      store(c, add ? load(c) + sum : sum);
      return;
    }
    for (int64_t j = 0; j < wide; ++j) c[j] = add ? c[j] + sum[j] : sum[j];
  }

  static constexpr int64_t GROUP = PANELS * TILE_ROWS;
  static constexpr int64_t PANEL = DEPTH * TILE_COLUMNS;

  Pool& pool_;
  Arena& arena_;
  const std::vector<MatrixProduct>& products_;
  std::vector<int64_t> panels_, tasks_;  // how many come before each product's
  int64_t first_column_ = 0, first_depth_ = 0;
};

}  // namespace

void multiply(Pool& pool, Arena& arena, const std::vector<MatrixProduct>& products, bool low) {
  if (!low) return Multiplication<Floats<false>>(pool, arena, products).run();
#if defined(__AVX512BF16__)
  Multiplication<Pairs>(pool, arena, products).run();
#else
  Multiplication<Floats<true>>(pool, arena, products).run();
#endif
}

}  // namespace dsv4::DSV4_ISA
