"""DSpark: a draft of a whole block of tokens, from what some layers of the main model make of the
tokens before it.

main_x_t = RMSNorm(main_proj · [mean of the streams after layer l, l in dspark_target_layer_ids])
"""

from __future__ import annotations

import torch
from torch import nn

from dsv4.config import Config
from dsv4.model.block import Block, StreamHead
from dsv4.model.layers import Float32Linear, RMSNorm, linear
from dsv4.model.precision import Precision


class MarkovHead(nn.Module):
    """What the token before adds to the logits of the next: markov_w2 · markov_w1[token]."""

    def __init__(self, config: Config, dtype: torch.dtype):
        super().__init__()
        vocab, rank = config.vocab_size, config.dspark_markov_rank or 0
        self.markov_w1 = nn.Embedding(vocab, rank, _weight=torch.empty(vocab, rank, dtype=dtype))
        self.markov_w2 = Float32Linear(rank, vocab, dtype)


class ConfidenceHead(nn.Module):
    """How likely a drafted token is to be accepted, given that those before it were: a logit."""

    def __init__(self, config: Config, dtype: torch.dtype):
        super().__init__()
        rank = config.dspark_markov_rank or 0
        self.proj = Float32Linear(config.hidden_size + rank, 1, dtype)


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
