"""A tiny model of all three layer kinds, hash and learned routing, MTP; and its checkpoint."""

import pytest

from dsv4.checkpoint import official
from dsv4.config import QUANTIZATION, Config
from dsv4.model.transformer import Transformer

TINY = {
    "vocab_size": 96,
    "hidden_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "head_dim": 32,
    "qk_rope_head_dim": 16,
    "q_lora_rank": 64,
    "o_groups": 2,
    "o_lora_rank": 32,
    "compress_ratios": (0, 4, 128, 0),
    "index_n_heads": 2,
    "index_head_dim": 32,
    "index_topk": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "num_hash_layers": 1,
    "moe_intermediate_size": 64,
    "sliding_window": 16,
    "max_position_embeddings": 1024,
}
DSPARK = {  # the same main model with a block draft of two stages
    "compress_ratios": (0, 4, 128, 0, 0),
    "dspark_block_size": 4,
    "dspark_noise_token_id": 95,
    "dspark_target_layer_ids": (0, 2),
    "dspark_markov_rank": 8,
}
FORMS = {  # the forms in which a checkpoint may be written
    "released": {},
    "base": {"expert_dtype": "fp8"},
    "base_f32_scales": {
        "expert_dtype": "fp8",
        "quantization_config": {k: v for k, v in QUANTIZATION.items() if k != "scale_fmt"},
    },
    "experts_bf16": {"expert_dtype": "bf16"},
    "bf16": {"quantization_config": None, "expert_dtype": None},
    "f32": {"quantization_config": None, "expert_dtype": None, "torch_dtype": "float32"},
}


def tiny(form: str = "released") -> Config:
    return Config(**TINY, **FORMS[form])


def tiny_dspark(form: str = "released", **changes) -> Config:
    return Config(**(TINY | DSPARK | FORMS[form] | changes))


def random_model(config: Config, seed: int = 0) -> Transformer:
    model = Transformer(config)
    model.initialize(seed)
    return model


@pytest.fixture(scope="session")
def model() -> Transformer:
    return random_model(tiny())


@pytest.fixture
def folder(model, tmp_path):
    """A fresh checkpoint in the released form, free to be damaged."""
    return official.save(model.state_dict(), tiny(), tmp_path / "ckpt")
