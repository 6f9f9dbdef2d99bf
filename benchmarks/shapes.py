"""The shapes that every figure of the README is measured on, named alike everywhere.

`18M` is a float32 model, for training and for transformers; `22M` and `2B` are in the released
layout (FP8 and FP4 blocks) and within what llama.cpp takes.
"""

from __future__ import annotations

from dsv4 import Config

SHAPES: dict[str, Config] = {
    "18M": Config(
        vocab_size=8192,
        hidden_size=256,
        num_hidden_layers=8,
        num_attention_heads=8,
        head_dim=64,
        qk_rope_head_dim=16,
        q_lora_rank=128,
        o_groups=2,
        o_lora_rank=128,
        compress_ratios=(0, 0, 4, 128, 4, 128, 4, 128, 0),
        index_n_heads=4,
        index_head_dim=32,
        index_topk=64,
        n_routed_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=128,
        max_position_embeddings=65536,
        torch_dtype="float32",
        expert_dtype=None,
        quantization_config=None,
    ),
    "22M": Config(
        vocab_size=8192,
        hidden_size=256,
        num_hidden_layers=8,
        num_attention_heads=8,
        head_dim=128,
        qk_rope_head_dim=64,
        q_lora_rank=128,
        o_groups=2,
        o_lora_rank=128,
        compress_ratios=(0, 0, 4, 128, 4, 128, 4, 128),
        index_n_heads=4,
        index_head_dim=64,
        index_topk=64,
        n_routed_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=128,
        num_nextn_predict_layers=0,
        max_position_embeddings=262144,
    ),
    "2B": Config(
        hidden_size=1024,
        num_hidden_layers=16,
        num_attention_heads=16,
        head_dim=128,
        qk_rope_head_dim=32,
        q_lora_rank=512,
        o_groups=4,
        o_lora_rank=256,
        compress_ratios=(0, 0, *(4, 128) * 7),
        index_n_heads=16,
        index_head_dim=64,
        index_topk=256,
        n_routed_experts=64,
        num_experts_per_tok=6,
        moe_intermediate_size=512,
        num_nextn_predict_layers=0,
        max_position_embeddings=262144,
    ),
}
