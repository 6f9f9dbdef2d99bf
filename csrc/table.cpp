// The kernels of the instruction set that this file is compiled for.
#include "hyper.h"
#include "inputs.h"
#include "sparse.h"
#include "sublayers_isa.h"
#include "training_isa.h"

#define DSV4_TEXT_(x) #x
#define DSV4_TEXT(x) DSV4_TEXT_(x)

namespace dsv4::DSV4_ISA {
namespace {

void multiply_rows(const Matrix& w, const float* x, int64_t rows, bool low, float* y) {
  Arena& arena = caller_arena();
  Scope scope(arena);
  Pool& pool = Pool::instance();
  Inputs in(pool, arena, x, rows, w.columns, w.columns, false);
  const Arranged* a = low ? in.low(w.format) : in.full(w.format);
  multiply(pool, {{&w, 0, w.rows, a, rows, nullptr, nullptr, y, w.rows}});
}

void multiply_floats(const MatrixProduct& product, bool low) {
  multiply(Pool::instance(), caller_arena(), {product}, low);
}

void attend_keys(const float* q, int64_t heads, int64_t c, const float* keys, int64_t count,
                 const float* sink, bool low, float* o) {
  std::memcpy(o, q, heads * c * sizeof(float));
  const Seen seen{0, count, 0, nullptr};
  attend(Pool::instance(), {heads, c, 0, sink, low, keys, nullptr, nullptr}, &seen, 1, o,
         caller_arena());
}

void choose(const float* q, const float* weights, int64_t heads, int64_t ic, const uint8_t* keys,
            int64_t count, int64_t k, uint16_t* ranks, int32_t* chosen) {
  std::vector<uint8_t> prepared(index_query_bytes(heads, ic));
  prepare_index_query(q, weights, heads, ic, prepared.data());
  index_ranks(prepared.data(), 1, &count, heads, ic, keys, count, ranks, count, caller_arena());
  top_entries(ranks, count, k, chosen, caller_arena());
}

void hyper(const HyperShape& shape, const Hyper& weights, const float* x, int64_t tokens,
           float* coefficients, float* u) {
  collapse(Pool::instance(), shape, weights, false, x, tokens, coefficients, u, caller_arena());
}

void entries(const float* x, int64_t rows, int64_t c, int64_t r, uint8_t* packed, float* back) {
  for (int64_t i = 0; i < rows; ++i) {
    pack_entry(x + i * c, c, r, packed + i * entry_bytes(c, r));
    unpack_entry(packed + i * entry_bytes(c, r), c, r, back + i * c);
  }
}

void keys(const float* x, int64_t rows, int64_t ic, uint8_t* packed, float* back) {
  for (int64_t i = 0; i < rows; ++i) {
    pack_key(x + i * ic, ic, packed + i * key_bytes(ic));
    unpack_key(packed + i * key_bytes(ic), ic, back + i * ic);
  }
}

}  // namespace

const Kernels KERNELS{DSV4_TEXT(DSV4_ISA), attend_layer, mix_layer,     head_logits,
                      remember_layer,      make_context, join_rows,     correct_row,
                      survey_rows,         weigh_rows,   pick_rows,
                      multiply_rows,       attend_keys,  choose,        hyper,
                      entries,             keys,
                      {multiply_floats, train_experts, train_experts_back, train_read, train_read_back,
                       train_write, train_write_back, train_attend, train_attend_back,
                       train_rows, train_rows_back, train_surprise, train_pool, train_pool_back,
                       train_adam}};

}  // namespace dsv4::DSV4_ISA
