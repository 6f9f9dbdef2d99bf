"""What a value must be: its type, its bounds, and what two fields must have in common.

Bounds are far from any model in use and near enough that nothing larger is ever allocated: a value
beyond them is a mistake, and is said to be one before anything is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dsv4.config.base import (
    DSPARK_FIELDS,
    EFFORT_REVISIONS,
    ConfigError,
    LayerKind,
    broken,
    is_integer,
    is_number,
)

if TYPE_CHECKING:
    from dsv4.config.config import Config

CONTAINERS = (dict, list, tuple)
DEEPEST = 20  # levels of an object: config.json has 3
MOST_RANK = 1 << 18
MOST_LAYERS, MOST_EXPERTS = 1024, 1 << 17  # experts of all layers together: V4-Pro has 23,808

COUNTS = {  # integers: least, most
    "vocab_size": (1, 1 << 24),
    "hidden_size": (1, 1 << 18),
    "num_hidden_layers": (1, MOST_LAYERS),
    "num_attention_heads": (1, 1 << 14),
    "head_dim": (1, 1 << 14),
    "qk_rope_head_dim": (1, 1 << 14),
    "q_lora_rank": (1, 1 << 18),
    "o_groups": (1, 1 << 14),
    "o_lora_rank": (1, 1 << 18),
    "sliding_window": (1, 1 << 16),
    "index_n_heads": (1, 1 << 14),
    "index_head_dim": (1, 1 << 14),
    "index_topk": (1, 1 << 24),
    "n_routed_experts": (1, 1 << 16),
    "num_experts_per_tok": (1, 1 << 16),
    "moe_intermediate_size": (1, 1 << 18),
    "num_hash_layers": (0, MOST_LAYERS),
    "hc_mult": (1, 64),
    "hc_sinkhorn_iters": (1, 1000),
    "num_nextn_predict_layers": (0, 1),
    "max_position_embeddings": (1, 1 << 30),
    "bos_token_id": (0, (1 << 24) - 1),
    "eos_token_id": (0, (1 << 24) - 1),
}
NUMBERS = {  # least, most
    "routed_scaling_factor": (1e-6, 1e6),
    "swiglu_limit": (1e-6, 1e30),
    "hc_eps": (1e-30, 1.0),
    "rms_norm_eps": (1e-30, 1.0),
    "rope_theta": (1.0 + 1e-6, 1e12),
    "compress_rope_theta": (1.0 + 1e-6, 1e12),
    "initializer_range": (0.0, 100.0),
    "attention_dropout": (0.0, 1.0),
}
ONLY: dict[str, tuple[Any, str]] = {  # the one value that the architecture has
    "num_key_value_heads": (1, "V4 has one key-value head"),
    "n_shared_experts": (1, "V4 has one shared expert"),
    "scoring_func": ("sqrtsoftplus", "must be sqrtsoftplus"),
    "topk_method": ("noaux_tc", "must be noaux_tc"),
    "hidden_act": ("silu", "must be silu"),
    "norm_topk_prob": (True, "must be true"),
    "attention_bias": (False, "must be false"),
    "tie_word_embeddings": (False, "must be false"),
}
NEUTRAL: dict[str, tuple[Any, ...]] = {  # fields of relatives that would change the model
    "mlp_bias": (False, None),
    "n_group": (1, None),
    "topk_group": (1, None),
    "first_k_dense_replace": (0, None),
    "moe_layer_freq": (1, None),
}
YARN = {
    "factor": (1.0, 1e6),
    "beta_fast": (1e-3, 1e6),
    "beta_slow": (1e-3, 1e6),
    "original_max_position_embeddings": (1, 1 << 30),
}


def check_object(values: Mapping[str, Any]) -> None:
    """Refuse, by name, what no field can hold and the models that are others.

    Raises: ConfigError for another model_type, vision, or an object that is too deep or not finite.
    """
    kind = values.get("model_type", "deepseek_v4")
    if kind == "deepseek_v41":
        raise ConfigError("model_type = 'deepseek_v41': V4.1 is another architecture than V4's")
    if kind != "deepseek_v4":
        raise broken("model_type", kind, "must be deepseek_v4")
    vision = sorted(key for key in values if key.startswith(("vision_", "image_")))
    if vision:
        raise ConfigError(f"{', '.join(vision[:3])}: V4 with vision is not supported, only text")
    for name, value in values.items():
        _check_json(name, value, 1)


def _check_json(name: str, value: Any, depth: int) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise broken(name, value, "must be finite")
    if not isinstance(value, CONTAINERS):
        return
    if depth > DEEPEST:
        raise ConfigError(f"{name.split('.')[0]} is nested deeper than {DEEPEST} levels")
    parts = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, part in parts:
        if isinstance(part, (float, *CONTAINERS)):
            _check_json(f"{name}.{key}", part, depth + 1)


def check_field(name: str, value: Any) -> None:
    """The rules of one field alone. Raises ConfigError."""
    if name in ONLY:
        only, rule = ONLY[name]
        if type(value) is not type(only) or value != only:
            raise broken(name, value, rule)
    elif name in COUNTS:
        least, most = COUNTS[name]
        if not is_integer(value):
            raise broken(name, value, "must be an integer")
        _bounds(name, value, least, most)
    elif name in NUMBERS:
        if not is_number(value):
            raise broken(name, value, "must be a number")
        _bounds(name, value, *NUMBERS[name])
    elif name in NEUTRAL:
        if value not in NEUTRAL[name] or (value is True):
            raise broken(name, value, f"V4 has none of it: must be {NEUTRAL[name][0]}")
    elif name in CHECKS:
        CHECKS[name](name, value)


def _bounds(name: str, value: float, least: float, most: float) -> None:
    if value < least:
        rule = f"must be at least {least:,}" if isinstance(least, int) else _above(least)
        raise broken(name, value, rule)
    if not value <= most:
        text = f"{most:,}" if isinstance(most, int) else f"{most:g}"
        raise broken(name, value, f"must be at most {text}")


def _above(least: float) -> str:
    if 0 < least < 1:
        return "must be positive" if least < 1e-20 else f"must be positive, at least {least:g}"
    return f"must be above {math.floor(least)}" if least > 1 else f"must be at least {least:g}"


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise broken(name, value, "must be true or false")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise broken(name, value, "must be a text")


def _texts(name: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise broken(name, value, "must be a list of texts")


def _ratios(name: str, value: Any) -> None:
    if not isinstance(value, list | tuple):
        raise broken(name, value, "must be a list")
    if len(value) > 2 * MOST_LAYERS:
        raise ConfigError(f"{name} has {len(value):,} entries: one for each layer is needed")
    for number, ratio in enumerate(value):
        if not is_integer(ratio) or not (ratio == 0 or 2 <= ratio <= 1 << 16):
            rule = "every ratio must be 0 or an integer of at least 2 and at most 65,536"
            raise broken(f"{name}[{number}]", ratio, rule)


def _expert_dtype(name: str, value: Any) -> None:
    if value not in (None, "fp4", "fp8", "bf16"):
        raise broken(name, value, "must be fp4, fp8 or bf16")


def _revision(name: str, value: Any) -> None:
    if value not in (None, *EFFORT_REVISIONS):
        raise broken(name, value, f"must be {' or '.join(EFFORT_REVISIONS)}")


def _scaling(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping) or value.get("type", value.get("rope_type")) != "yarn":
        raise broken(name, value, "must be null or of type yarn")
    for key, (least, most) in YARN.items():
        number = value.get(key)
        if not is_number(number) or not number > 0:
            raise broken(f"{name}.{key}", number, "must be a positive number")
        _bounds(f"{name}.{key}", number, least, most)
    for key, only in (("attention_factor", 1), ("truncate", True)):
        if value.get(key) not in (None, only):
            raise broken(f"{name}.{key}", value[key], f"must be {only}: V4 has no other")
    known = {"type", "rope_type", "attention_factor", "truncate", *YARN}
    unknown = sorted(map(str, value.keys() - known))
    if unknown:
        raise broken(f"{name}.{unknown[0]}", value.get(unknown[0]), "V4's YaRN has no such number")


def _quantization(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise broken(name, value, "must be an object or null")
    only = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    for key, word in only.items():
        if value.get(key, word) != word:
            raise broken(f"{name}.{key}", value[key], f"must be {word}")
    for key in ("scale_fmt", "expert_scale_fmt"):
        if value.get(key) not in (None, "ue8m0"):
            raise broken(f"{name}.{key}", value[key], "must be ue8m0, or absent for F32 scales")
    block = value.get("weight_block_size", [128, 128])
    if not isinstance(block, list | tuple) or list(block) != [128, 128]:
        raise broken(f"{name}.weight_block_size", block, "must be [128, 128]")
    if value.get("modules_to_not_convert") is not None:
        _texts(f"{name}.modules_to_not_convert", value["modules_to_not_convert"])


def _dspark(name: str, value: Any) -> None:
    many = name == "dspark_target_layer_ids"
    whole = value if many and isinstance(value, list | tuple) else (value,)
    if len(whole) > MOST_LAYERS:
        raise ConfigError(f"{name} has {len(whole):,} entries: more than there are layers")
    if value is not None and not all(is_integer(number) for number in whole):
        raise broken(name, value, f"must be {'a list of integers' if many else 'an integer'}")


CHECKS: dict[str, Callable[[str, Any], None]] = {
    "compress_ratios": _ratios,
    "rope_scaling": _scaling,
    "quantization_config": _quantization,
    "expert_dtype": _expert_dtype,
    "effort_revision": _revision,
    "architectures": _texts,
    "torch_dtype": _text,
    "transformers_version": _text,
    "use_cache": _flag,
    **dict.fromkeys(DSPARK_FIELDS, _dspark),
}


def check(config: Config) -> None:
    """Raise ConfigError on the first field, or pair of fields, that breaks a rule."""
    for name in (*config.__dataclass_fields__, *NEUTRAL.keys() & config.extra.keys()):
        check_field(name, config.extra[name] if name in config.extra else getattr(config, name))
    if config.model_type != "deepseek_v4":
        raise broken("model_type", config.model_type, "must be deepseek_v4")
    _check_pairs(config)
    _check_layers(config)
    _check_dspark(config)


def _check_pairs(config: Config) -> None:
    def rule(name: str, holds: bool, text: str) -> None:
        if not holds:
            raise broken(name, getattr(config, name), text)

    for name in ("qk_rope_head_dim", "head_dim", "index_head_dim"):
        rule(name, getattr(config, name) % 2 == 0, "must be even, channels rotate in pairs")
    rule(
        "qk_rope_head_dim",
        config.qk_rope_head_dim <= min(config.head_dim, config.index_head_dim),
        f"must not exceed head_dim ({config.head_dim}) or index_head_dim ({config.index_head_dim})",
    )
    rule(
        "o_groups",
        config.num_attention_heads % config.o_groups == 0,
        f"must divide num_attention_heads ({config.num_attention_heads})",
    )
    rule(
        "num_experts_per_tok",
        config.num_experts_per_tok <= config.n_routed_experts,
        f"must not exceed n_routed_experts ({config.n_routed_experts})",
    )
    rule(
        "n_routed_experts",
        config.n_routed_experts * config.num_hidden_layers <= MOST_EXPERTS,
        f"times num_hidden_layers ({config.num_hidden_layers}) must be at most {MOST_EXPERTS:,}",
    )
    for name in ("bos_token_id", "eos_token_id"):
        rule(name, getattr(config, name) < config.vocab_size, "must be below vocab_size")


def _check_layers(config: Config) -> None:
    layers, mtp = config.num_hidden_layers, config.num_nextn_predict_layers
    ratios = config.compress_ratios
    tail = len(ratios) - layers
    if not (tail >= 0 if config.dspark_block_size or not mtp else tail in (0, mtp)):
        raise broken(
            "compress_ratios",
            list(ratios),
            f"needs one entry for each of {layers} layers, and may have one more for each MTP "
            f"block ({mtp}) or, where dspark_block_size is set, for each stage of the DSpark draft",
        )
    if any(ratios[layers:]):
        raise broken("compress_ratios", list(ratios[layers:]), "a draft has ratio 0")
    named = config.extra.get("layer_types")
    if named is not None:
        words = [kind.value for kind in LayerKind]
        known = isinstance(named, list | tuple) and all(name in words for name in named)
        if not known or len(named) < layers:
            raise broken("layer_types", named, f"needs {layers} entries out of {words}")
    for ratio, kind in zip(ratios, config.layer_kinds, strict=False):
        if (ratio == 0) != (kind is LayerKind.SLIDING):
            rule = "layer_types must name ratio 0, and no other, sliding_attention"
            raise broken("compress_ratios", list(ratios), rule)


def _check_dspark(config: Config) -> None:
    for name in DSPARK_FIELDS:
        if getattr(config, name) is None and config.dspark_block_size:
            raise ConfigError(f"{name} is missing: dspark_block_size promises a DSpark draft")
    if not config.dspark_block_size:
        return
    window, layers, vocab = config.sliding_window, config.num_hidden_layers, config.vocab_size
    block, noise, targets, rank = (getattr(config, name) for name in DSPARK_FIELDS)
    if not 1 <= block <= window:
        rule = f"must be from 1 to sliding_window ({window}): rejected drafts are taken back"
        raise broken("dspark_block_size", block, rule)
    if not 0 <= noise < vocab:
        raise broken("dspark_noise_token_id", noise, f"must be a token of the {vocab:,}")
    if not 1 <= rank <= MOST_RANK:
        raise broken("dspark_markov_rank", rank, f"must be at least 1 and at most {MOST_RANK:,}")
    ascending = isinstance(targets, tuple) and list(targets) == sorted(set(targets))
    if not ascending or not targets or not 0 <= targets[0] <= targets[-1] < layers:
        rule = f"must list layers of 0 … {layers - 1} in ascending order"
        raise broken("dspark_target_layer_ids", targets, rule)
