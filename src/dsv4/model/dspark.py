"""DSpark: a draft of a whole block of tokens, from what some layers of the main model make of the
tokens before it.

main_x_t = RMSNorm(main_proj · [mean of the streams after layer l: l in dspark_target_layer_ids])
stage s:   an ordinary block over the rows [anchor, noise, …, noise], whose attention sees the
           entries kv_norm(wkv main_x_t) of the last `window` tokens, and every row of the block
head:      u_k = collapse(streams_k);  l_k = head · norm(u_k) + markov_w2 · markov_w1[x_k]
           c_k = proj · [u_k ; markov_w1[x_k]]
Row k stands at the place of x_k, x_0 the anchor, and predicts x_{k+1}.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsv4.config import Config
from dsv4.model.block import Block, StreamHead, SubLayers
from dsv4.model.cache import LayerState
from dsv4.model.layers import Float32Linear, RMSNorm, linear
from dsv4.model.precision import Precision
from dsv4.model.span import Span


class MarkovHead(nn.Module):
    """What a token adds to the logits of the next: markov_w2 · markov_w1[token], rank R."""

    def __init__(self, config: Config, dtype: torch.dtype):
        super().__init__()
        vocab, rank = config.vocab_size, config.dspark_markov_rank or 0
        self.markov_w1 = nn.Embedding(vocab, rank, _weight=torch.empty(vocab, rank, dtype=dtype))
        self.markov_w2 = Float32Linear(rank, vocab, dtype)

    def row(self, ids: Tensor) -> Tensor:
        """ids int [..] → markov_w1[ids], float32 [.., R]."""
        return F.embedding(ids, self.markov_w1.weight).float()

    def forward(self, row: Tensor) -> Tensor:
        """row [.., R] → what is added to the logits, float32 [.., V]."""
        added: Tensor = self.markov_w2(row)
        return added


class ConfidenceHead(nn.Module):
    """Whether the row's token will be accepted, given that those before it were: a logit."""

    def __init__(self, config: Config, dtype: torch.dtype):
        super().__init__()
        rank = config.dspark_markov_rank or 0
        self.proj = Float32Linear(config.hidden_size + rank, 1, dtype)

    def forward(self, hidden: Tensor, row: Tensor) -> Tensor:
        """hidden [.., d] before its norm, row [.., R] → float32 [..]."""
        logit: Tensor = self.proj(torch.cat((hidden.float(), row), dim=-1))
        return logit.squeeze(-1)


class StageParts(SubLayers, Protocol):
    """What runs a stage: Stage itself, in plain operators, or its native twin."""

    def main_x(self, main_hidden: Tensor, span: Span) -> Tensor:
        """main_hidden [b, n, T·d] → [b, n, d], which every stage reads; of padding, anything."""

    def remember(self, main_x: Tensor, span: Span, state: LayerState) -> None:
        """Store the entries of the span's tokens."""

    def correct(self, token: Tensor, k: int, hidden: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """The logits [b, V] and the confidence [b] of row k once the token before it is known,
        int64 [b]: from hidden [b, B, d] before its norm and base logits [b, B, V], float32."""


class Stage(Block, StreamHead):
    """One block of the draft. The first also holds what makes main_x, the last the heads."""

    def __init__(self, config: Config, number: int, precision: Precision):
        super().__init__(config, config.num_hidden_layers + number, precision)
        d, eps, dtype = config.hidden_size, config.rms_norm_eps, precision.dtype
        self.is_first, self.is_last = number == 0, number == config.draft_stages - 1
        if self.is_first:
            targets = config.dspark_target_layer_ids or ()
            self.main_proj = linear(len(targets) * d, d, precision)
            self.main_norm = RMSNorm(d, eps, dtype)
        if self.is_last:
            self.add_head(config, dtype)
            self.markov_head = MarkovHead(config, dtype)
            self.confidence_head = ConfidenceHead(config, dtype)

    @property
    def parts(self) -> StageParts:
        """Its native twin where it has one, or itself."""
        return cast(StageParts, self.twin or self)

    def main_x(self, main_hidden: Tensor, span: Span) -> Tensor:
        """main_hidden [b, n, T·d] → [b, n, d], which every stage reads."""
        x: Tensor = self.main_norm(self.main_proj(main_hidden))
        return x

    def remember(self, main_x: Tensor, span: Span, state: LayerState) -> None:
        """Store the entries of the span's tokens: attn_norm is for the block's rows alone."""
        state.window.append(span, self.attn.window_rows(main_x, span))

    def correct(self, token: Tensor, k: int, hidden: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """Row k of a block by its token [b]: hidden [b, B, d], base [b, B, V] → logits [b, V],
        confidence [b]."""
        row = self.markov_head.row(token)  # [b, R]
        return base[:, k] + self.markov_head(row), self.confidence_head(hidden[:, k], row)
