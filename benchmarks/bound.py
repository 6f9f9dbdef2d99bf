"""What the machine allows: bytes a token needs ÷ read bandwidth, operations ÷ matrix rate.

    decode bound  = bandwidth   / (weights of a token + cache entries that it attends to)
    prefill bound = matrix rate / (2 · weights of a token + products of its attention)

Weights count as the released layout stores them, of the routed experts num_experts_per_tok / E;
of the embedding and of tid2eid a token reads one row. A cache entry has its channels in FP8 (one
scale byte for 64) but the rotary ones in BF16, an indexer key FP4 (one scale byte for 32).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from dsv4 import Config, LayerKind
from dsv4.checkpoint.layout import Role, layout, weights

GIB = 1 << 30
SIDE = 2048  # of the matrices that are multiplied
TRIES = 5


def decode_bytes(config: Config, context: int) -> int:
    """Bytes that one token after `context` others cannot do without reading."""
    return _weight_bytes(config) + sum(
        _cache_bytes(config, layer, context) for layer in range(config.num_hidden_layers)
    )


def prefill_operations(config: Config, tokens: int) -> int:
    """Floating-point operations for a prompt: matrices for each token, the head for the last."""
    return _forward_operations(config, tokens, heads=1)


def training_operations(config: Config, tokens: int) -> int:
    """The same for the loss of a row and all its gradients: each product, and two of its slopes."""
    return 3 * _forward_operations(config, tokens, heads=tokens)


def _forward_operations(config: Config, tokens: int, heads: int) -> int:
    d, vocab, routed = config.hidden_size, config.vocab_size, ".ffn.experts."
    always = chosen = 0
    for name, weight in weights(config).items():
        if weight.role is Role.INDEX or name.startswith(("embed.", "head.", "mtp.")):
            continue
        chosen += math.prod(weight.shape) * (routed in name)
        always += math.prod(weight.shape) * (routed not in name)
    per_token = always + chosen * config.num_experts_per_tok // config.n_routed_experts
    products = tokens * per_token + heads * d * vocab
    for layer in range(config.num_hidden_layers):
        for position in range(tokens):
            attended, scored = _attended(config, layer, position + 1)
            products += 2 * attended * config.num_attention_heads * config.head_dim
            products += scored * config.index_n_heads * config.index_head_dim
    return 2 * products


def read_bandwidth() -> float:
    """Bytes/s of summing 1 GiB of float32, the best of a few."""
    data = torch.ones(GIB // 4)
    return GIB / _fastest(data.sum)


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations/s of a square matrix product, the best of a few."""
    left, right = torch.randn(SIDE, SIDE).to(dtype), torch.randn(SIDE, SIDE).to(dtype)
    return 2 * SIDE**3 / _fastest(lambda: left @ right)


def _attended(config: Config, layer: int, length: int) -> tuple[int, int]:
    """Entries that the last of `length` tokens attends to, and indexer keys that it scores."""
    window, kind = min(length, config.sliding_window), config.kind(layer)
    if kind is LayerKind.SLIDING:
        return window, 0
    closed = length // config.compress_ratios[layer]
    if kind is LayerKind.HCA:
        return window + closed, 0
    return window + min(closed, config.index_topk), closed


def _cache_bytes(config: Config, layer: int, context: int) -> int:
    attended, scored = _attended(config, layer, context + 1)
    plain = config.head_dim - config.qk_rope_head_dim
    entry = plain + math.ceil(plain / 64) + 2 * config.qk_rope_head_dim
    key = config.index_head_dim // 2 + math.ceil(config.index_head_dim / 32)
    return attended * entry + scored * key


def _weight_bytes(config: Config) -> int:
    total = 0.0
    for name, tensor in layout(config).items():
        if name.startswith("mtp."):
            continue
        if name.startswith("embed.") or name.endswith(".tid2eid"):
            total += tensor.nbytes / config.vocab_size
        elif ".ffn.experts." in name:
            total += tensor.nbytes * config.num_experts_per_tok / config.n_routed_experts
        else:
            total += tensor.nbytes
    return round(total)


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls."""
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
