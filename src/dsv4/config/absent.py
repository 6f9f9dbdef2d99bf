"""Fields that decide the architecture and have no value of their own: none is taken from a preset.

Most of them are told by tensors' shapes (checkpoint/told.py); the others must be in config.json.
A null is a value: `rope_scaling: null` says that nothing is scaled, its absence says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dsv4.config.base import ConfigError

DECIDING = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "head_dim",
    "qk_rope_head_dim",
    "q_lora_rank",
    "o_groups",
    "o_lora_rank",
    "sliding_window",
    "compress_ratios",
    "index_n_heads",
    "index_head_dim",
    "index_topk",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "routed_scaling_factor",
    "num_hash_layers",
    "swiglu_limit",
    "hc_mult",
    "hc_sinkhorn_iters",
    "hc_eps",
    "rope_theta",
    "compress_rope_theta",
    "rope_scaling",
    "num_nextn_predict_layers",
    "rms_norm_eps",
    "max_position_embeddings",
)


def absent(values: Mapping[str, Any]) -> list[str]:
    """The deciding fields that an object does not have."""
    return [name for name in DECIDING if name not in values]


def refuse_absent(names: Iterable[str]) -> None:
    """Raises ConfigError naming the fields, if there are any."""
    listed = ", ".join(names)
    if listed:
        raise ConfigError(
            f"there is no {listed}: no tensor tells, and no preset's value is assumed; add what "
            "the model was trained with"
        )
