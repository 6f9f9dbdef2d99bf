// The entry points of one instruction set; `table.cpp` makes its Kernels of them.
#pragma once

#include "sublayers.h"

namespace dsv4::DSV4_ISA {

void attend_layer(const Layer&, const LayerState&, const Span&, void* x);
void mix_layer(const Layer&, const Span&, const int64_t* ids, void* x);
void head_logits(const Head&, const void* x, int64_t tokens, float* logits);

extern const Kernels KERNELS;

}  // namespace dsv4::DSV4_ISA
