// The entry points of one instruction set; `table.cpp` makes its Kernels of them.
#pragma once

#include "sublayers.h"

namespace dsv4::DSV4_ISA {

void attend_layer(const Layer&, const LayerState&, const Span&, void* x);
void mix_layer(const Layer&, const Span&, const int64_t* ids, void* x);
void head_logits(const Head&, const void* x, int64_t tokens, float* hidden, float* logits);
void remember_layer(const Layer&, const LayerState&, const Span&, const void* x);
void make_context(const Context&, const Span&, const void* hidden, void* x);
void join_rows(const Joint&, const Span&, const void* embedded, const void* streams, void* x);
void correct_row(const Markov&, const int64_t* tokens, int64_t batch, int64_t block, int64_t k,
                 const float* hidden, const float* logits, float* corrected, float* confidence);

extern const Kernels KERNELS;

}  // namespace dsv4::DSV4_ISA
