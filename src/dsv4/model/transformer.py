"""The whole model: ids → embedding, repeated to hc streams → layers → collapse → logits.

One forward for training, prefill and decode. With a cache the new tokens continue its sequences;
without one they are whole sequences of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dsv4.config import Config
from dsv4.model.block import Block, StreamHead
from dsv4.model.cache import Cache, Form, SequenceState, Stores
from dsv4.model.documents import DocumentSpan
from dsv4.model.dspark import Stage
from dsv4.model.initial import initialize
from dsv4.model.layers import Float32Linear
from dsv4.model.mtp import MTPBlock
from dsv4.model.past import LayerPast, Past
from dsv4.model.precision import Mode, Precision, floating
from dsv4.model.seam import Twinned
from dsv4.model.span import Span
from dsv4.model.study import Study


class Head(Protocol):
    """A native twin of `Transformer.logits` and `Transformer.draft_logits`."""

    def logits(self, streams: Tensor) -> Tensor:
        """streams [b, n, hc, d] → float32 [b, n, vocab_size]."""

    def draft_logits(self, streams: Tensor) -> tuple[Tensor, Tensor]:
        """streams [b, n, hc, d] → float32 [b, n, d] and [b, n, vocab_size]."""


class Transformer(Twinned[Head], StreamHead):
    """DeepSeek-V4 at any size. Parameters are named as the released tensors are, except that the
    routed experts of a layer are stacked (`ffn.experts.w1` [E, i, d]).

    The weights are uninitialised: load a checkpoint or call `initialize(seed)`. With a packed
    `precision` (FAST or EXACT, then `dtype` is its own) weights are attached by dsv4.load. With
    `recompute` set, training keeps the streams between layers and makes the rest again.
    """

    recompute = False

    def __init__(
        self,
        config: Config,
        dtype: torch.dtype = torch.float32,
        precision: Precision | None = None,
    ):
        super().__init__()
        self.config, self.precision = config, precision or floating(dtype)
        self.dtype = dtype = self.precision.dtype
        weight = torch.empty(config.vocab_size, config.hidden_size, dtype=dtype)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size, _weight=weight)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(Block(config, layer, self.precision) for layer in layers)
        self.add_head(config, dtype)
        self.head = Float32Linear(config.hidden_size, config.vocab_size, dtype)
        self.mtp = nn.ModuleList(  # the draft, if there is one
            Stage(config, number, self.precision)
            if config.is_dspark
            else MTPBlock(config, self.precision)
            for number in range(config.draft_stages)
        )
        drafts = range(len(layers), len(layers) + config.draft_stages)
        self.form = Form.of(config, layers, self.precision)
        self.draft_form = Form.of(config, drafts, self.precision)
        self.targets = frozenset(config.dspark_target_layer_ids or () if config.is_dspark else ())

    def initialize(self, seed: int) -> None:
        """Draw initial weights (see model/initial.py), the same for the same seed."""
        if self.precision.packed:
            raise ValueError("a packed model reads its weights from files: initialise a float one")
        initialize(self, self.config, seed)

    @property
    def mode(self) -> Mode:
        """ "float", or how a packed model computes: "fast" or "exact"."""
        return self.precision.mode

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.weight.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Transformer:
        """Packed bytes may move to another device, but to cast them would be to lose them."""
        if self.precision.packed:
            dtype = fn(torch.empty(0, dtype=torch.float8_e4m3fn, device=self.device)).dtype
            if dtype is not torch.float8_e4m3fn:
                raise ValueError(f"a packed model cannot be cast: load it with dtype={dtype}")
        super()._apply(fn, recurse)
        return self

    def new_cache(self, batch: int) -> Cache:
        """An empty cache for `batch` sequences."""
        return self._cache(batch)

    def new_draft_cache(self, batch: int) -> Cache:
        """An empty cache of the draft: of the MTP block, whose rows are one behind the main model's
        tokens, or of the stages of a DSpark draft (model/draft.py)."""
        first = self.config.num_hidden_layers
        return self._cache(batch, range(first, first + self.config.draft_stages))

    def new_stores(self, slots: int, pages: int, layers: Sequence[int] | None = None) -> Stores:
        """State of `slots` sequences and `pages` pages of entries, in all layers or in some."""
        return Stores(
            self.config, slots, pages, layers=layers, precision=self.precision, device=self.device
        )

    def _cache(self, batch: int, layers: Sequence[int] | None = None) -> Cache:
        stores = self.new_stores(batch, 0, layers)
        return Cache(stores, [SequenceState(slot) for slot in range(batch)])

    def forward(
        self, ids: Tensor, cache: Cache | None = None, lengths: Sequence[int] | None = None
    ) -> Tensor:
        """ids int [b, n] → logits float32 [b, n, vocab_size].

        `lengths` says how many columns of each row are tokens, the rest being padding on the
        right whose logits mean nothing; default all. With a cache the tokens are appended to it.
        Raises ValueError for ids of a wrong shape, out of the vocabulary, or past the context.
        """
        return self.logits(self.streams(ids, cache, lengths))

    def logits(self, streams: Tensor) -> Tensor:
        """Streams after the last layer [.., hc, d] → logits float32 [.., vocab_size].

        Raises ValueError for another shape, dtype or device than a forward's.
        """
        self._check_streams(streams)
        return self.twin.logits(streams) if self.twin else self.head(self.collapse(streams))

    def streams(
        self,
        ids: Tensor,
        cache: Cache | None = None,
        lengths: Sequence[int] | None = None,
        documents: Sequence[Sequence[int]] | None = None,
        studies: Sequence[Study] | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """The residual streams after the last layer: [b, n, hc, d]. Arguments as in `forward`.

        In training a row may hold several documents, which do not see one another: `documents[b]`
        are their lengths, in place of `lengths`. `studies` has one for each layer (`new_studies`).
        With a `past` the ids are the columns from `past.first` on, and others' lie elsewhere.
        """
        span = self._span(ids, cache, lengths, self.form, documents, past)
        return self._run(ids, span, cache, studies, past)[0]

    def streams_and_targets(
        self, ids: Tensor, cache: Cache | None = None, lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`streams`, and what a DSpark draft reads: [b, n, T·d], the mean of the streams after each
        of the T layers of dspark_target_layer_ids (None without such a draft)."""
        return self._run(ids, self._span(ids, cache, lengths, self.form), cache)

    def new_studies(self, *, dense: bool = False, index: bool = False) -> list[Study]:
        """A study for each layer, and one more for an MTP block (`draft_streams`)."""
        count = len(self.layers) + (0 if self.config.is_dspark else len(self.mtp))
        return [Study(dense, index) for _ in range(count)]

    def _run(
        self,
        ids: Tensor,
        span: Span,
        cache: Cache | None,
        studies: Sequence[Study] | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        x = self.initial_streams(ids)
        means: list[Tensor] = []
        states = _states(cache, past)
        for number, layer in enumerate(self.layers):
            state = None if states is None else states[number]
            study = None if studies is None else studies[number]
            x = self._layer(layer, x, ids, span, state, study)
            if number in self.targets:
                total = cast(Tensor, sum(x.float().unbind(2)))
                means.append((total / x.shape[2]).to(x.dtype))
        if cache is not None:
            cache.advance(span)
        return x, torch.cat(means, dim=-1) if means else None

    def _layer(self, layer: nn.Module, x: Tensor, *rest: Any) -> Tensor:
        """One layer; with `recompute` the backward makes again what it needs beside x."""
        if not (self.recompute and torch.is_grad_enabled()):
            return cast(Tensor, layer(x, *rest))
        return cast(Tensor, checkpoint(layer, x, *rest, use_reentrant=False))

    def initial_streams(self, ids: Tensor) -> Tensor:
        """ids [b, n] → hc equal streams [b, n, hc, d]."""
        x = F.embedding(ids, self.embed.weight).to(self.dtype).unsqueeze(2)
        return x.expand(-1, -1, self.config.hc_mult, -1)

    def draft_streams(
        self,
        streams: Tensor,
        next_ids: Tensor,
        cache: Cache | None = None,
        lengths: Sequence[int] | None = None,
        documents: Sequence[Sequence[int]] | None = None,
        study: Study | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """The MTP block's streams [b, n, hc, d] from those of tokens t and the ids of t + 1.

        `draft_hidden` makes them hidden states that predict token t + 2 through `head`; for a
        deeper draft they are fed back in. The cache is one of `new_draft_cache`.
        """
        block = self._draft_block()
        self._check_streams(streams)
        if streams.shape[:-2] != next_ids.shape:
            raise ValueError(
                f"streams are of {list(streams.shape[:-2])} tokens, next_ids {list(next_ids.shape)}"
            )
        span = self._span(next_ids, cache, lengths, self.draft_form, documents, past)
        embedded = F.embedding(next_ids, self.embed.weight).to(self.dtype)
        states = _states(cache, past)
        state = None if states is None else states[-1]
        joined = block.parts.join(streams, embedded, span)
        drafted = self._layer(block, joined, next_ids, span, state, study)
        if cache is not None:
            cache.advance(span)
        return drafted

    def draft_hidden(self, drafted: Tensor) -> Tensor:
        """The MTP block's streams [b, n, hc, d], collapsed by its own head → hidden [b, n, d]."""
        block = self._draft_block()
        self._check_streams(drafted)
        return block.collapse(drafted)

    def draft_logits(self, drafted: Tensor) -> tuple[Tensor, Tensor]:
        """Streams after the draft's last block [b, n, hc, d], by its own head → the hidden states
        before their norm [b, n, d] and logits [b, n, vocab_size], both float32."""
        if not self.mtp:
            raise ValueError("this model has no draft: its checkpoint holds no mtp.* tensors")
        self._check_streams(drafted)
        if self.twin:
            return self.twin.draft_logits(drafted)
        last = cast(StreamHead, self.mtp[-1])
        hidden = last.fold(drafted)
        return hidden.float(), self.head(last.norm(hidden))

    def _draft_block(self) -> MTPBlock:
        block = self.mtp[0] if self.mtp else None
        if not isinstance(block, MTPBlock):
            raise ValueError("this model has no MTP block: its config promises none")
        return block

    def _check_streams(self, streams: Tensor) -> None:
        shape = (self.config.hc_mult, self.config.hidden_size)
        right = streams.dim() > 2 and streams.shape[-2:] == shape
        if not right or streams.dtype is not self.dtype or streams.device != self.device:
            raise ValueError(
                f"streams are {streams.dtype} {list(streams.shape)} on {streams.device}: must be "
                f"{self.dtype} [batch, n, {shape[0]}, {shape[1]}] on {self.device}"
            )

    def check_ids(self, ids: Tensor) -> None:
        """Raise ValueError for ids int [..] out of the vocabulary."""
        low, high = (int(bound) for bound in torch.aminmax(ids))
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(
                f"token id {low if low < 0 else high} is outside the vocabulary of "
                f"{self.config.vocab_size}: ids must come from this model's tokenizer"
            )

    def _span(
        self,
        ids: Tensor,
        cache: Cache | None,
        lengths: Sequence[int] | None,
        form: Form,
        documents: Sequence[Sequence[int]] | None = None,
        past: Past | None = None,
    ) -> Span:
        """Check the arguments of a forward and place its tokens."""
        if ids.dim() != 2 or ids.dtype not in (torch.int64, torch.int32) or ids.numel() == 0:
            raise ValueError(
                f"ids must be a non-empty integer tensor [batch, n], got {ids.dtype} "
                f"of shape {list(ids.shape)}"
            )
        if ids.device != self.device:
            raise ValueError(f"ids are on {ids.device}, the model is on {self.device}")
        b, n = ids.shape
        self.check_ids(ids)
        assert past is None or documents is not None, "divided rows say where their documents end"
        if documents is not None:
            first = 0 if past is None else past.first
            self._check_documents(documents, b, n if past is None else None, cache, lengths)
            places = [SequenceState.whole(self.config, number, n) for number in range(b)]
            return DocumentSpan(documents, n, self.config.sliding_window, ids.device, places, first)
        real = [n] * b if lengths is None else list(lengths)
        if len(real) != b or not all(0 <= length <= n for length in real):
            raise ValueError(f"lengths {real} must be {b} numbers between 0 and {n}")
        if cache is not None and cache.batch != b:
            raise ValueError(f"the cache holds {cache.batch} sequences, ids has {b}")
        if cache is not None:
            cache.stores.check(form, ids.device)
        starts = [0] * b if cache is None else list(cache.lengths)
        context = self.config.max_position_embeddings
        longest = max(start + length for start, length in zip(starts, real, strict=True))
        if longest > context:
            raise ValueError(
                f"the sequence would have {longest} tokens, the context is {context}: shorten it, "
                "or raise max_position_embeddings"
            )
        if cache is None:
            places = [SequenceState.whole(self.config, number, n) for number in range(b)]
        else:
            cache.reserve(real)
            places = cache.sequences
        return Span(starts, n, real, self.config.sliding_window, ids.device, places)

    def _check_documents(
        self,
        documents: Sequence[Sequence[int]],
        rows: int,
        columns: int | None,
        cache: Cache | None,
        lengths: Sequence[int] | None,
    ) -> None:
        if cache is not None or lengths is not None or self.precision.packed:
            raise ValueError(
                "documents laid end to end are for training: they need a float model, and neither "
                "cache nor lengths; give each document a row of its own"
            )
        wide = columns is not None and any(sum(each) > columns for each in documents)
        if len(documents) != rows or wide:
            raise ValueError(
                f"documents {[list(each) for each in documents]} must be of {rows} rows of at most "
                f"{columns} tokens"
            )
        context = self.config.max_position_embeddings
        longest = max((length for each in documents for length in each), default=0)
        if longest > context:
            raise ValueError(
                f"a document has {longest} tokens, the context is {context}: cut it, or raise "
                "max_position_embeddings"
            )


def _states(cache: Cache | None, past: Past | None) -> Sequence[LayerPast] | None:
    """What each layer reads of the past."""
    if past is not None:
        return past.layers
    return None if cache is None else cache.layers
