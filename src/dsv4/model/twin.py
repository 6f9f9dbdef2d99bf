"""Native twins: a packed model's sub-layers and its head, each one call into C++.

`install` hands `Block` and `Transformer` their twins (model/seam.py); what the modules do without
one stays the readable definition, and a test holds the two together. What a layer computes with is
handed over once, the streams once for all layers of a forward, which change them in place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dsv4.config import Config
from dsv4.model.block import Block, StreamHead
from dsv4.model.cache import CompressorState, LayerState
from dsv4.model.compressor import Compressor
from dsv4.model.dspark import Stage
from dsv4.model.handed import CALL, Call, UnsupportedError, floats, imported, matrix, places
from dsv4.model.moe import PackedExperts
from dsv4.model.mtp import MTPBlock
from dsv4.model.past import LayerPast
from dsv4.model.residency import Limit, residency
from dsv4.model.span import Span
from dsv4.model.transformer import Transformer
from dsv4.ops import native

LANES = 16  # channels come in whole vectors
INTEGERS = (
    "hc_mult hc_sinkhorn_iters hidden_size num_attention_heads head_dim qk_rope_head_dim "
    "q_lora_rank o_groups o_lora_rank sliding_window n_routed_experts num_experts_per_tok "
    "moe_intermediate_size"
)
NUMBERS = "hc_eps rms_norm_eps swiglu_limit routed_scaling_factor"


def install(model: Transformer, limit: Limit | None = None) -> bool:
    """Let native twins run a packed model on a CPU, its resident set limited; True if they do.

    False without the native module, and, said in a warning, for shapes or scales that it does not
    know: then the plain operators run. A model on another device has its twins once it comes to
    the CPU. Raises ValueError for a limit that is too small.
    """
    module = native.module()
    if module is None or not model.precision.packed:
        return False
    blocks = [block for block in (*model.layers, *model.mtp) if isinstance(block, Block)]
    twins: list[LayerTwin | None] = [None] * len(blocks)
    head = None
    try:
        _check(model.config)
        if model.device.type == "cpu":
            held = None if limit is None else residency(module, model, limit)
            twins = [_twin(module, block, layer, held) for layer, block in enumerate(blocks)]
            head = HeadTwin(module, model)
    except UnsupportedError as error:
        _say_plain(error)
        return False
    for layer, (block, twin) in enumerate(zip(blocks, twins, strict=True)):
        block.run_by(twin, partial(_renewed_layer, layer=layer))
    model.run_by(head, _renewed_head)
    return head is not None


def _say_plain(error: UnsupportedError) -> None:
    warnings.warn(f"plain operators run this model: {error}", RuntimeWarning, stacklevel=3)


def _twin(module: ModuleType, block: Block, layer: int, held: Any) -> LayerTwin:
    if isinstance(block, Stage):
        return StageTwin(module, block, layer, held)
    if isinstance(block, MTPBlock):
        return MTPTwin(module, block, layer, held)
    return LayerTwin(module, block, layer, held)


def _renewed_layer(block: Block, layer: int) -> LayerTwin | None:
    held = block.twin.held if isinstance(block.twin, LayerTwin) else None  # a copy is in memory
    make = partial(_twin, block=block, layer=layer, held=held)
    return _renewed(block.twin, LayerTwin.reads(block), make)


def _renewed_head(model: Transformer) -> HeadTwin | None:
    return _renewed(model.twin, HeadTwin.reads(model), partial(HeadTwin, model=model))


T = TypeVar("T")


def _renewed(twin: Any, tensors: list[Tensor], make: Callable[[ModuleType], T]) -> T | None:
    """The twin of a module whose tensors may have moved: the one that it has while they did not."""
    module = native.module()
    if module is None or any(tensor.device.type != "cpu" for tensor in tensors):
        return None
    if twin is not None and twin.places == places(tensors):
        return twin
    try:
        return make(module)
    except UnsupportedError as error:
        _say_plain(error)
        return None


def _check(config: Config) -> None:
    whole = ("hidden_size", "head_dim", "moe_intermediate_size", "index_head_dim")
    for name in whole:
        if getattr(config, name) % LANES:
            raise UnsupportedError(f"{name} = {getattr(config, name)} is no multiple of {LANES}")
    if config.index_head_dim & (config.index_head_dim - 1):
        raise UnsupportedError(f"index_head_dim = {config.index_head_dim} is no power of two")
    if config.hc_mult > 8:
        raise UnsupportedError(f"hc_mult = {config.hc_mult} is more than 8")


class LayerTwin:
    """One block's two sub-layers."""

    def __init__(self, module: ModuleType, block: Block, layer: int, held: Any = None):
        config = block.config
        self.module, self.config, self.layer = module, config, layer
        self.precision, self.ratio, self.held = block.precision, block.attn.ratio, held
        self.places = places(self.reads(block))
        self.seen: WeakKeyDictionary[LayerState, Seen] = WeakKeyDictionary()
        self.native = module.Layer(exact=block.precision.mode == "exact")
        for name in INTEGERS.split():
            self.native.integer(name, getattr(config, name))
        for name in NUMBERS.split():
            self.native.number(name, getattr(config, name))
        self.native.integer("compress_ratio", self.ratio)
        if block.attn.indexer is not None:
            for name in ("index_n_heads", "index_head_dim", "index_topk"):
                self.native.integer(name, getattr(config, name))
        self._add("", block, ("attn_norm", "ffn_norm"))
        self._hyper(block)
        self._add("", block.attn, ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "q_norm", "kv_norm"))
        self._vector("freqs", block.attn.freqs)
        self._vector("attn_sink", block.attn.attn_sink)
        for prefix, compressor in (
            ("compressor.", block.attn.compressor),
            ("indexer.compressor.", block.attn.indexer and block.attn.indexer.compressor),
        ):
            if isinstance(compressor, Compressor):
                self._add(prefix, compressor, ("wkv", "wgate", "norm"))
                self._vector(f"{prefix}ape", compressor.ape)
        if block.attn.indexer is not None:
            self._add("indexer.", block.attn.indexer, ("wq_b", "weights_proj"))
        self._mixture(block, held)
        self.native.complete()

    @staticmethod
    def reads(block: Block) -> list[Tensor]:
        """Every tensor of the block."""
        experts = block.ffn.experts
        assert isinstance(experts, PackedExperts)
        return [*block.parameters(), *block.buffers(), *experts.tensors()]

    def _vector(self, name: str, tensor: Tensor) -> None:
        self.native.vector(name, floats(tensor))

    def _matrix(self, name: str, weight: Tensor, scale: Tensor | None = None) -> None:
        self.native.matrix(name, matrix(self.module, weight, scale))

    def _add(self, prefix: str, parent: nn.Module, names: tuple[str, ...]) -> None:
        """Hand over linears and norms of `parent` by name."""
        for name in names:
            child = getattr(parent, name)
            if child.weight.dim() == 1:
                self._vector(prefix + name, child.weight)
            else:
                self._matrix(prefix + name, child.weight, getattr(child, "scale", None))

    def _hyper(self, block: Block) -> None:
        for part in ("attn", "ffn"):
            self._matrix(f"hc_{part}_fn", floats(getattr(block, f"hc_{part}_fn")))
            for name in ("base", "scale"):
                self._vector(f"hc_{part}_{name}", getattr(block, f"hc_{part}_{name}"))

    def _mixture(self, block: Block, held: Any) -> None:
        moe, experts = block.ffn, block.ffn.experts
        assert isinstance(experts, PackedExperts)
        self._matrix("gate", moe.gate.weight)
        if moe.gate.hashed:
            self.native.table(moe.gate.tid2eid.contiguous())
        else:
            self._vector("gate.bias", moe.gate.bias)
        self._add("shared_experts.", moe.shared_experts, ("w1", "w2", "w3"))
        for expert in range(self.config.n_routed_experts):
            made = [matrix(self.module, *pair) for pair in experts.matrices(expert)]
            if held is not None:
                for each in made:
                    held.add(each)
            self.native.expert(*made)
        if held is not None:
            self.native.residency(held)

    # ---- the calls ---------------------------------------------------------------------------

    def attend(self, x: Tensor, span: Span, state: LayerPast | None) -> Tensor:
        """Block.attend, in place of x where x is contiguous."""
        assert state is None or isinstance(state, LayerState)
        call = span.once(CALL, lambda: Call(self.module, span))
        if x is not call.x:
            x = call.take(x)
        self.native.attend(self._stores(state, span), call.span, call.streams)
        return x

    def mix(self, x: Tensor, ids: Tensor, span: Span) -> Tensor:
        """Block.mix, in place of x where x is contiguous."""
        call = span.once(CALL, lambda: Call(self.module, span))
        if x is not call.x:
            x = call.take(x)
        if ids is not call.ids:
            call.take_ids(ids)
        self.native.mix(call.span, call.tokens, call.streams)
        return x

    def _stores(self, state: LayerState | None, span: Span) -> Any:
        """The layer's stores as the native module sees them."""
        if state is None:
            pages = sum(len(place.pages) for place in span.places)
            batch = len(span.places)
            state = LayerState(self.config, self.layer, batch, pages, self.precision, "cpu")
        seen = self.seen.get(state)
        if seen is None or (
            state.compressor is not None and state.compressor.entries.data is not seen.entries
        ):  # new, or grown
            seen = self.seen[state] = Seen(self.module, self.native, state)
        return seen.native


class MTPTwin(LayerTwin):
    """The MTP block, and what joins streams and embeddings before it."""

    def __init__(self, module: ModuleType, block: MTPBlock, layer: int, held: Any = None):
        super().__init__(module, block, layer, held)
        e, h = block.e_proj, block.h_proj
        self.joint = module.Joint(
            exact=block.precision.mode == "exact",
            streams=block.config.hc_mult,
            eps=block.enorm.eps,
            e_proj=matrix(module, e.weight, getattr(e, "scale", None)),
            h_proj=matrix(module, h.weight, getattr(h, "scale", None)),
            enorm=floats(block.enorm.weight),
            hnorm=floats(block.hnorm.weight),
        )

    def join(self, streams: Tensor, embedded: Tensor, span: Span) -> Tensor:
        """MTPBlock.join."""
        call = span.once(CALL, lambda: Call(self.module, span))
        x = torch.empty(streams.shape, dtype=streams.dtype)
        read = (embedded.contiguous(), streams.contiguous())
        self.joint.rows(call.span, *(imported(self.module, each) for each in (*read, x)))
        return x


class StageTwin(LayerTwin):
    """A stage of a block draft, and of the first and the last what they have beside it."""

    def __init__(self, module: ModuleType, stage: Stage, layer: int, held: Any = None):
        super().__init__(module, stage, layer, held)
        if stage.is_first:
            self.context = module.Context(
                exact=stage.precision.mode == "exact",
                eps=stage.main_norm.eps,
                proj=matrix(
                    module, stage.main_proj.weight, getattr(stage.main_proj, "scale", None)
                ),
                norm=floats(stage.main_norm.weight),
            )
        if stage.is_last:
            markov, sure = stage.markov_head, stage.confidence_head
            heads = (markov.markov_w1.weight, markov.markov_w2.weight, sure.proj.weight)
            self.markov = module.Markov(*(matrix(module, weight) for weight in heads))

    def main_x(self, main_hidden: Tensor, span: Span) -> Tensor:
        """Stage.main_x, of the span's tokens alone."""
        call = span.once(CALL, lambda: Call(self.module, span))
        x = main_hidden.new_empty(*main_hidden.shape[:2], self.config.hidden_size)
        hidden = imported(self.module, main_hidden.contiguous())
        self.context.rows(call.span, hidden, imported(self.module, x))
        return x

    def remember(self, main_x: Tensor, span: Span, state: LayerState) -> None:
        """Stage.remember."""
        call = span.once(CALL, lambda: Call(self.module, span))
        x = imported(self.module, main_x.contiguous())
        self.native.remember(self._stores(state, span), call.span, x)

    def correct(self, token: Tensor, k: int, hidden: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """Stage.correct."""
        b, _, vocabulary = base.shape
        logits, confidence = base.new_empty(b, vocabulary), base.new_empty(b)
        tensors = (hidden.contiguous(), base.contiguous(), logits, confidence)
        ids = imported(self.module, token.long().contiguous())
        self.markov.correct(ids, k, *(imported(self.module, tensor) for tensor in tensors))
        return logits, confidence


class Seen:
    """What one LayerState stores, as the native module sees it."""

    def __init__(self, module: ModuleType, layer: Any, state: LayerState):
        self.entries, tail = _stored(state.compressor)
        keys, index_tail = _stored(state.indexer)
        self.native = module.LayerState(
            layer, state.window.data, self.entries, tail, keys, index_tail
        )


def _stored(state: CompressorState | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if state is None else (state.entries.data, state.tail.data)


class HeadTwin:
    """Streams to logits, by the model's own head and by that of its draft."""

    def __init__(self, module: ModuleType, model: Transformer):
        self.module, self.vocabulary = module, model.config.vocab_size
        self.places = places(self.reads(model))
        self.native, *self.of_draft = (self._head(model, owner) for owner in self.owners(model))

    @staticmethod
    def owners(model: Transformer) -> list[StreamHead]:
        """Who holds a head."""
        return [model, *(cast(StreamHead, block) for block in model.mtp[-1:])]

    @classmethod
    def reads(cls, model: Transformer) -> list[Tensor]:
        """Every tensor of the heads."""
        found: list[Tensor] = [model.head.weight]
        for owner in cls.owners(model):
            found += [owner.hc_head_fn, owner.hc_head_scale, owner.hc_head_base, owner.norm.weight]
        return found

    def _head(self, model: Transformer, owner: StreamHead) -> Any:
        config = model.config
        return self.module.Head(
            exact=model.mode == "exact",
            streams=config.hc_mult,
            d=config.hidden_size,
            eps=config.hc_eps,
            norm_eps=config.rms_norm_eps,
            fn=matrix(self.module, floats(owner.hc_head_fn)),
            scale=floats(owner.hc_head_scale),
            base=floats(owner.hc_head_base),
            norm=floats(owner.norm.weight),
            weight=matrix(self.module, model.head.weight),
        )

    def logits(self, streams: Tensor) -> Tensor:
        """Transformer.logits."""
        return self._run(self.native, streams)

    def draft_logits(self, streams: Tensor) -> tuple[Tensor, Tensor]:
        """Transformer.draft_logits."""
        hidden = torch.empty(*streams.shape[:-2], streams.shape[-1])  # float32 [.., d]
        logits = self._run(self.of_draft[0], streams, hidden.view(1, -1, hidden.shape[-1]))
        return hidden, logits

    def _run(self, head: Any, streams: Tensor, hidden: Tensor | None = None) -> Tensor:
        native.use_threads(self.module)
        out = torch.empty(*streams.shape[:-2], self.vocabulary)  # float32 [.., vocab]
        x = streams.reshape(1, -1, *streams.shape[-2:]).contiguous()
        written = (out.view(1, -1, self.vocabulary), hidden)
        head.logits(
            imported(self.module, x),
            *(each if each is None else imported(self.module, each) for each in written),
        )
        return out
