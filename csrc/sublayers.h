// The sub-layers of a block and the output head, each one call: streams in, streams out in place.
#pragma once

#include "draw.h"
#include "layer.h"
#include "training.h"

namespace dsv4 {

// What a module of one instruction set offers.
struct Kernels {
  const char* name;
  // x [batch, columns, hc, d] float32, or bfloat16 where the layer is exact
  void (*attend)(const Layer&, const LayerState&, const Span&, void* x);
  void (*mix)(const Layer&, const Span&, const int64_t* ids, void* x);
  // also the rows before their norm [tokens, d], unless `hidden` is null
  void (*logits)(const Head&, const void* x, int64_t tokens, float* hidden, float* logits);
  // a block draft's: rows [batch, columns, d] become window entries of the span's tokens
  void (*remember)(const Layer&, const LayerState&, const Span&, const void* x);
  void (*context)(const Context&, const Span&, const void* hidden, void* x);
  // an MTP block's: embedded [batch, columns, d], streams [batch, columns, hc, d] → x like streams
  void (*join)(const Joint&, const Span&, const void* embedded, const void* streams, void* x);
  // row k of blocks: hidden [batch, block, d], logits [batch, block, vocabulary], tokens [batch]
  // → logits [batch, vocabulary] and confidence [batch] once the token before is known
  void (*markov)(const Markov&, const int64_t* tokens, int64_t batch, int64_t block, int64_t k,
                 const float* hidden, const float* logits, float* corrected, float* confidence);
  // draw.cpp: the next token of rows of logits
  void (*survey)(const float* x, int64_t rows, int64_t n, float* lowest, float* highest, int64_t* best);
  void (*weigh)(const Draws&);
  void (*pick)(const Draws&, int64_t* chosen);
  // single operators, for tests: float32 in and out
  void (*multiply)(const Matrix&, const float* x, int64_t rows, bool low, float* y);
  void (*attend_keys)(const float* q, int64_t heads, int64_t c, const float* keys, int64_t count,
                      const float* sink, bool low, float* o);
  void (*choose)(const float* q, const float* weights, int64_t heads, int64_t ic,
                 const uint8_t* keys, int64_t count, int64_t k, uint16_t* ranks, int32_t* chosen);
  void (*hyper)(const HyperShape&, const Hyper&, const float* x, int64_t tokens,
                float* coefficients, float* u);
  void (*entries)(const float* x, int64_t rows, int64_t c, int64_t r, uint8_t* packed, float* back);
  void (*keys)(const float* x, int64_t rows, int64_t ic, uint8_t* packed, float* back);
  TrainingKernels training;
};

const Kernels* kernels();                       // the best for this machine, or the one chosen
bool choose_kernels(const std::string& name);   // false if this machine cannot run them
std::vector<std::string> kernel_names();        // those that this machine can run
void set_threads(int threads);

}  // namespace dsv4
