"""FLOPs of matrix products, two for each multiplication and addition, of one token or of a prompt.

linear       2 · Σ in · out of the matrices that the token passes
attention    2 · H · c · keys for scores, as many for values;  keys = window + entries
index        2 · (ih · ic + ih) · entries where more than index_topk are visible
mHC          2 · (2 + hc)·hc · hc·d + 78 · hc⁴ + 2 · hc·d + 2 · hc²·d  a sub-layer (20 iterations)

Visible at position t: min(t + 1, window) rows, (t + 1) // m entries, of which CSA takes index_topk.
Elementwise work (norms, rotary, softmax, pooling) is left out, as in the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dsv4.config import Config, LayerKind

# FP8-equivalent (report, figure 1): what a unit weighs beside an FP8 one. All linears count 1.
WEIGHT = {"attention": 2.0, "index": 0.5}


@dataclass(frozen=True)
class Flops:
    """FLOPs by part; `fp8` weighs them as the report does."""

    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """Unweighted."""
        return sum(self.parts.values())

    @property
    def fp8(self) -> float:
        """FP8-equivalent: attention products are BF16 and count 2, index products FP4 and 1/2."""
        return sum(WEIGHT.get(part, 1.0) * count for part, count in self.parts.items())


def token(config: Config, context: int) -> Flops:
    """One step of decoding: the token that makes the sequence `context` tokens long, with its
    logits. Without the draft."""
    parts = _linears(config)
    parts["head"] += 2 * config.vocab_size * config.hidden_size
    for layer, kind in enumerate(config.layer_kinds):
        ratio = config.compress_ratios[layer]
        seen = context // ratio if ratio else 0
        window = min(context, config.sliding_window)
        scored = seen if kind is LayerKind.CSA and seen > config.index_topk else 0
        taken = min(seen, config.index_topk) if kind is LayerKind.CSA else seen
        _attend(parts, config, window + taken, scored)
    return Flops(parts)


def prompt(config: Config, tokens: int) -> Flops:
    """A prefill of `tokens` tokens: every token's layers, the last one's logits."""
    parts: Counter[str] = Counter({k: tokens * v for k, v in _linears(config).items()})
    parts["head"] += 2 * config.vocab_size * config.hidden_size
    window = _sum_of_floors(tokens, 1, config.sliding_window)
    for layer, kind in enumerate(config.layer_kinds):
        ratio, topk = config.compress_ratios[layer], config.index_topk
        if kind is LayerKind.SLIDING:
            _attend(parts, config, window, 0)
        elif kind is LayerKind.HCA:
            _attend(parts, config, window + _sum_of_floors(tokens, ratio), 0)
        else:
            few = min(
                tokens, ratio * (topk + 1) - 1
            )  # tokens that see at most topk: none is scored
            scored = _sum_of_floors(tokens, ratio) - _sum_of_floors(few, ratio)
            _attend(parts, config, window + _sum_of_floors(tokens, ratio, topk), scored)
    return Flops(parts)


def _sum_of_floors(tokens: int, ratio: int, most: int | None = None) -> int:
    """Σ min(⌊t / ratio⌋, most) for t = 1 … tokens."""
    if most is not None and tokens > ratio * most:
        return _sum_of_floors(ratio * most, ratio) + most * (tokens - ratio * most)
    whole, rest = divmod(tokens, ratio)
    return ratio * whole * (whole - 1) // 2 + whole * (rest + 1)


def _attend(parts: Counter[str], config: Config, keys: int, scored: int) -> None:
    """ops/attention.py: scores and values; ops/indexer.py: scores, and their sum over heads."""
    parts["attention"] += 2 * 2 * config.num_attention_heads * config.head_dim * keys
    parts["index"] += 2 * config.index_n_heads * (config.index_head_dim + 1) * scored


def _linears(config: Config) -> Counter[str]:
    """One token through every layer's matrices, the output head's vocabulary apart."""
    d, hc = config.hidden_size, config.hc_mult
    parts: Counter[str] = Counter()
    for kind in config.layer_kinds:
        parts["attention linears"] += 2 * _attention_numbers(config)
        if kind is not LayerKind.SLIDING:
            width = 2 if kind is LayerKind.CSA else 1
            parts["compressors"] += 2 * 2 * width * config.head_dim * d
        if kind is LayerKind.CSA:
            wide = config.index_n_heads * config.index_head_dim
            parts["indexer linears"] += 2 * (wide * config.q_lora_rank + config.index_n_heads * d)
            parts["compressors"] += 2 * 2 * 2 * config.index_head_dim * d
        expert = 3 * d * config.moe_intermediate_size
        parts["routers"] += 2 * config.n_routed_experts * d
        parts["routed experts"] += 2 * config.num_experts_per_tok * expert
        parts["shared experts"] += 2 * expert
        parts["mHC"] += 2 * _hyper(config)
    parts["mHC"] += 2 * hc * hc * d + 2 * hc * d  # StreamHead
    return parts


def _attention_numbers(config: Config) -> int:
    """wq_a, wq_b, wkv, wo_a by group, wo_b (model/attention.py)."""
    d, q, wide = (
        config.hidden_size,
        config.q_lora_rank,
        config.num_attention_heads * config.head_dim,
    )
    low = config.o_groups * config.o_lora_rank
    return d * q + q * wide + d * config.head_dim + wide * config.o_lora_rank + low * d


def _hyper(config: Config) -> int:
    """One sub-layer (ops/hyper.py): gates, Sinkhorn, collapse, expand."""
    d, hc = config.hidden_size, config.hc_mult
    gates = 2 * (2 + hc) * hc * hc * d
    sinkhorn = (2 * config.hc_sinkhorn_iters - 1) * 2 * hc**4
    return gates + sinkhorn + 2 * hc * d + 2 * hc * hc * d
