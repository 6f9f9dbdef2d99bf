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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsv4.config import Config
from dsv4.model.block import Block, StreamHead
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


class Stage(Block, StreamHead):
    """One block of the draft. The first also holds what makes main_x, the last the heads."""

    def __init__(self, config: Config, number: int, precision: Precision):
        super().__init__(config, config.num_hidden_layers + number, precision)
        d, eps, dtype = config.hidden_size, config.rms_norm_eps, precision.dtype
        if number == 0:
            targets = config.dspark_target_layer_ids or ()
            self.main_proj = linear(len(targets) * d, d, precision)
            self.main_norm = RMSNorm(d, eps, dtype)
        if number == config.draft_stages - 1:
            self.add_head(config, dtype)
            self.markov_head = MarkovHead(config, dtype)
            self.confidence_head = ConfidenceHead(config, dtype)

    def main_x(self, main_hidden: Tensor) -> Tensor:
        """main_hidden [b, n, T·d] → [b, n, d], which every stage reads."""
        x: Tensor = self.main_norm(self.main_proj(main_hidden))
        return x

    def remember(self, main_x: Tensor, span: Span, state: LayerState) -> None:
        """Store the entries of the span's tokens: attn_norm is for the block's rows alone."""
        state.window.append(span, self.attn.window_rows(main_x, span))
