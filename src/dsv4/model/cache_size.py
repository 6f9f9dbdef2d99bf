"""Bytes of one sequence's packed cache after n tokens, by kind.

    entry   row = (c − r) FP8 codes + ⌈(c − r)/64⌉ scales + 2r bytes of BF16 rotary channels
    indexer key = ic/2 bytes of FP4 codes + ⌈ic/32⌉ scales
    tail    row = values and scores, float32: 4 · 2 · (2 on CSA, 1 on HCA) · channels

    layer   window rows:  window                       constant, in every layer
            entries:      ⌊n/m⌋ rows, CSA as many keys  grow
            tail rows:    2m on CSA (compressor and indexer), m on HCA   constant
            step back:    window rows more in each ring (see cache.py)   constant

Source: technical report, section 2.3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4.config import Config, LayerKind
from dsv4.quant.entries import entry_bytes, key_bytes

FLOAT32 = 4


@dataclass(frozen=True)
class CacheBytes:
    """Bytes of one sequence over the main layers, without MTP's."""

    window: int = 0
    entries: int = 0
    keys: int = 0
    tails: int = 0
    step_back: int = 0

    @property
    def total(self) -> int:
        """All kinds together."""
        return self.window + self.entries + self.keys + self.tails + self.step_back


def cache_bytes(config: Config, tokens: int) -> CacheBytes:
    """The packed cache of `tokens` tokens, rings at their full size."""
    window = entries = keys = tails = step_back = 0
    entry = entry_bytes(config.head_dim, config.qk_rope_head_dim)
    for layer, kind in enumerate(config.layer_kinds):
        window += config.sliding_window * entry
        step_back += config.sliding_window * entry
        if kind is LayerKind.SLIDING:
            continue
        m, halves = config.compress_ratios[layer], 2 if kind is LayerKind.CSA else 1
        channels = config.head_dim
        entries += tokens // m * entry
        if kind is LayerKind.CSA:
            keys += tokens // m * key_bytes(config.index_head_dim)
            channels += config.index_head_dim
        row = FLOAT32 * 2 * halves * channels
        tails += halves * m * row
        step_back += config.sliding_window * row
    return CacheBytes(window, entries, keys, tails, step_back)


def gqa_bytes(config: Config, tokens: int, heads: int = 8, channels: int = 128) -> int:
    """The measure of the report: a BF16 cache of grouped-query attention in as many layers."""
    return tokens * config.num_hidden_layers * 2 * heads * channels * 2
