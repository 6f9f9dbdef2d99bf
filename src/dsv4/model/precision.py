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

In mixed, fast and exact every product takes operands that are exact in float32 and sums in float32.
Mixed is for training: weights and their slopes are float32, and what is rounded for a product is
rounded for its backward too. A column that rounds otherwise (FP8 or FP4 values are exact in
bfloat16) is mixed with another `operand` and another way from a weight to its matrix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dsv4.config import Config
from dsv4.model.rows import EntryRows, FloatRows, KeyRows, RowFormat
from dsv4.ops.attention import attend, attend_rounded
from dsv4.quant.activations import round_fp8

Mode = Literal["float", "fast", "exact"]


def to_bfloat16(x: Tensor) -> Tensor:
    """x rounded to bfloat16, as float32."""
    return x.to(torch.bfloat16).float()


@dataclass(frozen=True)
class Precision:
    """One column of the table. `floating(dtype)`, MIXED, FAST and EXACT are all there are."""

    mode: Mode
    dtype: torch.dtype  # streams and activations
    operand: Callable[[Tensor], Tensor]  # what an FP8 or FP4 linear multiplies
    index_weights: torch.dtype
    index_scores: torch.dtype
    attend: Callable[..., Tensor]
    low: bool = False  # products of a float model round their operands to bfloat16

    @property
    def packed(self) -> bool:
        """Whether weights and cache rows are bytes."""
        return self.mode != "float"

    @property
    def of_wo_a(self) -> Precision:
        """The release expands wo_a to bfloat16 and leaves its input as it is."""
        return dataclasses.replace(self, operand=to_bfloat16) if self.packed else self

    def entry_rows(self, config: Config) -> RowFormat:
        """How window and compressed entries are stored."""
        if self.packed:
            return EntryRows(config.head_dim, config.qk_rope_head_dim, self.dtype)
        return FloatRows(config.head_dim, self.dtype)

    def key_rows(self, config: Config) -> RowFormat:
        """How indexer keys are stored."""
        if self.packed:
            return KeyRows(config.index_head_dim)
        return FloatRows(config.index_head_dim, self.dtype)


def floating(dtype: torch.dtype) -> Precision:
    """Weights and activations in `dtype`; nothing else is rounded."""
    return Precision("float", dtype, lambda x: x, torch.float32, torch.float32, attend)


MIXED = dataclasses.replace(floating(torch.float32), low=True)
FAST = Precision("fast", torch.float32, to_bfloat16, torch.float32, torch.bfloat16, attend)
EXACT = Precision(
    "exact", torch.bfloat16, round_fp8, torch.bfloat16, torch.bfloat16, attend_rounded
)
