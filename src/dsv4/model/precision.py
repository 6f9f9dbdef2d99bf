"""Where a model rounds, in one table; modules read it once, when they are made.

                         float   mixed                 fast                  exact (the release)
streams, activations     dtype   float32               float32               bfloat16
input of FP8/FP4 linear  as is   rounded to bfloat16   rounded to bfloat16   rounded to FP8, of 128
its weight               as is   rounded to bfloat16   as it is stored       as it is stored
input of wo_a            as is   rounded to bfloat16   rounded to bfloat16   bfloat16
entries                  as is   as is                 FP8, rotary BF16      the same
indexer keys, queries    as is   as is                 Hadamard, FP4         Hadamard, bfloat16, FP4
indexer head weights     float32 float32               float32               bfloat16
indexer scores           float32 float32               bfloat16              bfloat16
attention probabilities  dtype   float32               float32               bfloat16, sum float32
experts' w1, w3, w2      dtype   rounded to bfloat16   float32               float32, cast once
router, compressors      float32 float32               float32               float32
vocabulary in the loss   float32 rounded to bfloat16

In all but float every product takes operands that are exact in float32 and sums in float32. Mixed
is for training: weights and their slopes are float32, and what is rounded for a product is rounded
for its backward too. Two more columns for training are mixed, but for what a checkpoint will round
(report, section 5.2.1), straight through (quant/straight.py):

                         fp8                    fp4: quantisation-aware
input of FP8/FP4 linear  FP8, groups of 128     FP8, groups of 128
dense linears            FP8 blocks             FP8 blocks
experts                  FP8 blocks             FP4 blocks (BF16, FP8: as the config stores them)
entries                  as is                  FP8, rotary part BF16
indexer keys, queries    as is                  Hadamard, FP4
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dsv4.config import Config
from dsv4.model.rows import EntryRows, FloatRows, KeyRows, RowFormat, StraightRows
from dsv4.ops.attention import attend, attend_rounded
from dsv4.quant import straight
from dsv4.quant.activations import round_fp8

Mode = Literal["float", "fast", "exact"]


def to_bfloat16(x: Tensor) -> Tensor:
    """x rounded to bfloat16, as float32."""
    return x.to(torch.bfloat16).float()


def as_is(x: Tensor) -> Tensor:
    """x."""
    return x


@dataclass(frozen=True)
class Precision:
    """One column: there are `floating(dtype)`, MIXED, FP8, FP4, FAST and EXACT."""

    mode: Mode
    dtype: torch.dtype  # streams and activations
    operand: Callable[[Tensor], Tensor]  # what an FP8 or FP4 linear multiplies
    index_weights: torch.dtype
    index_scores: torch.dtype
    attend: Callable[..., Tensor]
    low: bool = False  # products of a float model round their operands to bfloat16
    weight: Callable[[Tensor], Tensor] = as_is  # what an FP8 linear of a float model multiplies
    aware: bool = False  # experts and cache rows are rounded as they will be stored

    @property
    def packed(self) -> bool:
        """Whether weights and cache rows are bytes."""
        return self.mode != "float"

    @property
    def of_wo_a(self) -> Precision:
        """The release expands wo_a to bfloat16 and leaves its input as it is."""
        return dataclasses.replace(self, operand=to_bfloat16 if self.packed else as_is)

    def expert_weight(self, config: Config) -> Callable[[Tensor], Tensor]:
        """What experts of a float model multiply."""
        if self.weight is as_is:
            return as_is
        stored = config.expert_dtype if self.aware else "fp8"
        return {"fp4": straight.fp4_weight, "fp8": straight.fp8_weight}.get(stored or "", as_is)

    def entry_rows(self, config: Config) -> RowFormat:
        """How window and compressed entries are stored."""
        if self.packed:
            return EntryRows(config.head_dim, config.qk_rope_head_dim, self.dtype)
        if self.aware:
            rotary = config.qk_rope_head_dim
            return StraightRows(config.head_dim, self.dtype, lambda x: straight.entry(x, rotary))
        return FloatRows(config.head_dim, self.dtype)

    def key_rows(self, config: Config) -> RowFormat:
        """How indexer keys are stored."""
        if self.packed:
            return KeyRows(config.index_head_dim)
        if self.aware:
            return StraightRows(config.index_head_dim, self.dtype, straight.index_key)
        return FloatRows(config.index_head_dim, self.dtype)


def floating(dtype: torch.dtype) -> Precision:
    """Weights and activations in `dtype`; nothing else is rounded."""
    return Precision("float", dtype, as_is, torch.float32, torch.float32, attend)


FLOAT32 = floating(torch.float32)
MIXED = dataclasses.replace(FLOAT32, low=True)
FP8 = dataclasses.replace(MIXED, operand=straight.fp8_operand, weight=straight.fp8_weight)
FP4 = dataclasses.replace(FP8, aware=True)
TRAINING = {"float32": FLOAT32, "bfloat16": MIXED, "fp8": FP8, "fp4": FP4}
FAST = Precision("fast", torch.float32, to_bfloat16, torch.float32, torch.bfloat16, attend)
EXACT = Precision(
    "exact", torch.bfloat16, round_fp8, torch.bfloat16, torch.bfloat16, attend_rounded
)
