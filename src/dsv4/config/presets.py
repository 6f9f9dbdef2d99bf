"""The named models: V4-Flash and V4-Pro of April, of July and August, and nano."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def alternating(first: Iterable[int], layers: int, drafts: int = 1) -> tuple[int, ...]:
    """`first`, then 4 and 128 in turn up to `layers`, then a 0 for each block of the draft."""
    ratios = list(first)
    while len(ratios) < layers:
        ratios.append(128 if ratios[-1] == 4 else 4)
    return (*ratios, *[0] * drafts)


FLASH: dict[str, Any] = {}
PRO: dict[str, Any] = {
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "o_groups": 16,
    "compress_ratios": alternating((128, 128), 61),
    "index_topk": 1024,
    "n_routed_experts": 384,
    "moe_intermediate_size": 3072,
    "routed_scaling_factor": 2.5,
}
PRESETS: dict[str, dict[str, Any]] = {
    "flash": FLASH,
    "pro": PRO,
    "nano": {
        "vocab_size": 8192,
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "head_dim": 128,
        "q_lora_rank": 128,
        "o_groups": 2,
        "o_lora_rank": 128,
        "compress_ratios": alternating((0, 0), 6),
        "index_n_heads": 4,
        "index_head_dim": 64,
        "index_topk": 64,
        "n_routed_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
    },
    "flash-0731": FLASH
    | {
        "compress_ratios": alternating((0, 0), 43, drafts=3),
        "dspark_block_size": 5,
        "dspark_noise_token_id": 128799,
        "dspark_target_layer_ids": (40, 41, 42),
        "dspark_markov_rank": 256,
    },
    "pro-0813": PRO
    | {
        "compress_ratios": alternating((128, 128), 61, drafts=3),
        "dspark_block_size": 5,
        "dspark_noise_token_id": 128799,
        "dspark_target_layer_ids": (58, 59, 60),
        "dspark_markov_rank": 512,
    },
}
