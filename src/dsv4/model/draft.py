"""One draft of a DSpark block, and the context that it is made from.

    remember:  main_hidden of committed tokens → an entry of each stage, in the draft's cache
    propose:   the anchor, a token that the main model chose but has not yet processed, at position
               p = tokens in the cache → x_1 … x_B for the positions p + 1 … p + B

Stages run once for the whole block; only the Markov head is serial: l_k depends on x_k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from dsv4.model.cache import Cache, LayerState
from dsv4.model.dspark import Stage
from dsv4.model.span import BlockSpan, Span
from dsv4.model.transformer import Transformer
from dsv4.ops.accept import confident, own_confidence

Choose = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Proposal:
    """Drafts of `b` sequences: ids int64 [b, B], the logits that each was chosen from [b, B, V]
    and what a head for it says of each, a logit [b, B], where the draft has one; both float32.
    """

    ids: Tensor
    logits: Tensor
    told: Tensor | None = None

    @property
    def confidence(self) -> Tensor:
        """How sure the draft is of each, a logit [b, B]: what its head for it says, or the
        probability that its own logits give the token."""
        return own_confidence(self.logits, self.ids) if self.told is None else self.told

    def trusted(self, threshold: float) -> list[int]:
        """How many drafts of each come before the first whose sigmoid(confidence) is below the
        threshold; 0 trusts all."""
        if threshold <= 0:
            return [self.ids.shape[1]] * len(self.ids)
        found: list[int] = confident(self.confidence, threshold).tolist()
        return found


def greedy(logits: Tensor) -> Tensor:
    """The likeliest tokens: logits [b, V] → int64 [b]."""
    return logits.argmax(-1)


def stages_of(model: Transformer) -> list[Stage]:
    """The draft's blocks. Raises ValueError for a model without a DSpark draft."""
    if not model.config.is_dspark:
        raise ValueError("this model has no DSpark draft: its checkpoint holds no mtp.0.main_proj")
    return [cast(Stage, stage) for stage in model.mtp]


def remember(
    model: Transformer, main_hidden: Tensor, cache: Cache, lengths: Sequence[int] | None = None
) -> None:
    """Append tokens to the draft's cache: main_hidden [b, n, T·d] of streams_and_targets.

    Of row b the first `lengths[b]` columns count, default all. A rejected draft is never stored,
    so nothing has to be taken back after a verification.
    Raises ValueError, with the cache as it was, for what is not of this model.
    """
    stages, width = stages_of(model), len(model.targets) * model.config.hidden_size
    right = main_hidden.dim() == 3 and main_hidden.shape[-1] == width
    if not right or main_hidden.dtype is not model.dtype:
        raise ValueError(
            f"main_hidden is {main_hidden.dtype} {list(main_hidden.shape)}: must be {model.dtype} "
            f"[batch, n, {width}]"
        )
    b, n, _ = main_hidden.shape
    if b != cache.batch:
        raise ValueError(f"the draft's cache holds {cache.batch} sequences, main_hidden has {b}")
    cache.stores.check(model.draft_form, main_hidden.device)
    real = [n] * b if lengths is None else list(lengths)
    if len(real) != b or not all(0 <= length <= n for length in real):
        raise ValueError(f"lengths {real} must be {b} numbers between 0 and {n}")
    window = model.config.sliding_window
    span = Span(cache.lengths, n, real, window, main_hidden.device, cache.sequences)
    x = stages[0].parts.main_x(main_hidden, span)
    for stage, state in zip(stages, cache.layers, strict=True):
        stage.parts.remember(x, span, state)
    cache.advance(span)


def propose(model: Transformer, anchors: Tensor, cache: Cache, choose: Choose = greedy) -> Proposal:
    """Draft B tokens after each anchor, int64 [b]; the cache is read and left as it is.

    `choose` takes the corrected logits [b, V] of one place and gives its tokens [b].
    Raises ValueError for anchors that are no tokens of this cache's sequences.
    """
    if anchors.shape != (cache.batch,):
        raise ValueError(
            f"anchors have shape {list(anchors.shape)}: one for each of {cache.batch} sequences"
        )
    last, config = stages_of(model)[-1].parts, model.config
    model.check_ids(anchors)
    cache.stores.check(model.draft_form, anchors.device)
    block, window = config.dspark_block_size or 0, config.sliding_window
    span = BlockSpan(cache.lengths, block, window, anchors.device, cache.sequences)
    streams = block_streams(model, anchors, span, cache.layers)
    hidden, base = model.draft_logits(streams)  # [b, B, d], [b, B, V]
    token, drawn = anchors, []
    for k in range(span.n):
        logits, confidence = last.correct(token, k, hidden, base)
        token = choose(logits)
        drawn.append((token, logits, confidence))
    return Proposal(*(torch.stack(parts, dim=1) for parts in zip(*drawn, strict=True)))


def block_streams(
    model: Transformer, anchors: Tensor, span: BlockSpan, states: Sequence[LayerState]
) -> Tensor:
    """anchors int64 [b] → the last stage's streams [b, B, hc, d]."""
    ids = anchors.new_full((len(anchors), span.n), model.config.dspark_noise_token_id or 0)
    ids[:, 0] = anchors
    x = model.initial_streams(ids)
    for stage, state in zip(stages_of(model), states, strict=True):
        x = stage(x, ids, span, state)
    return x
