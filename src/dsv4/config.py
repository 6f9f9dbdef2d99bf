"""The official config.json as a frozen dataclass, with presets and rules.

Field names are the release's own. A field that dsv4 does not know is kept in `extra` and written
back; a value that no model can be built from is a `ConfigError` naming field, value and rule.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Self


class ConfigError(ValueError):
    """A configuration value that breaks a rule: the message names field, value and rule."""


class LayerKind(Enum):
    """How a layer's attention sees the past. The values are transformers' `layer_types`."""

    SLIDING = "sliding_attention"
    CSA = "compressed_sparse_attention"
    HCA = "heavily_compressed_attention"


YARN = {
    "type": "yarn",
    "factor": 16,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 65536,
}
QUANTIZATION = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "scale_fmt": "ue8m0",
}
DSPARK_FIELDS = (
    "dspark_block_size",
    "dspark_noise_token_id",
    "dspark_target_layer_ids",
    "dspark_markov_rank",
)
EFFORT_REVISIONS = ("2026-04", "2026-07")


def _alternating(first: Iterable[int], layers: int, drafts: int = 1) -> tuple[int, ...]:
    """`first`, then 4 and 128 in turn up to `layers`, then a 0 for each block of the draft."""
    ratios = list(first)
    while len(ratios) < layers:
        ratios.append(128 if ratios[-1] == 4 else 4)
    return (*ratios, *[0] * drafts)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One model. Defaults are V4-Flash's; `from_preset` gives the named models.

    Source: technical report, section 4.2 and the released config.json.
    """

    vocab_size: int = 129280
    hidden_size: int = 4096
    num_hidden_layers: int = 43
    num_attention_heads: int = 64
    num_key_value_heads: int = 1
    head_dim: int = 512
    qk_rope_head_dim: int = 64
    q_lora_rank: int = 1024
    o_groups: int = 8
    o_lora_rank: int = 1024
    sliding_window: int = 128
    compress_ratios: tuple[int, ...] = _alternating((0, 0), 43)
    index_n_heads: int = 64
    index_head_dim: int = 128
    index_topk: int = 512
    n_routed_experts: int = 256
    num_experts_per_tok: int = 6
    n_shared_experts: int = 1
    moe_intermediate_size: int = 2048
    routed_scaling_factor: float = 1.5
    scoring_func: str = "sqrtsoftplus"
    topk_method: str = "noaux_tc"
    norm_topk_prob: bool = True
    num_hash_layers: int = 3
    swiglu_limit: float = 10.0
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    rope_theta: float = 10000.0
    compress_rope_theta: float = 160000.0
    rope_scaling: Mapping[str, Any] | None = field(default_factory=lambda: dict(YARN))
    num_nextn_predict_layers: int = 1  # MTP blocks; a DSpark draft has `draft_stages` instead
    dspark_block_size: int | None = None  # tokens that a DSpark draft proposes; absent or 0: none
    dspark_noise_token_id: int | None = None
    dspark_target_layer_ids: tuple[int, ...] | None = None
    dspark_markov_rank: int | None = None
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 1048576
    bos_token_id: int = 0
    eos_token_id: int = 1
    hidden_act: str = "silu"
    initializer_range: float = 0.02
    attention_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    use_cache: bool = True
    torch_dtype: str = "bfloat16"
    expert_dtype: str | None = "fp4"
    quantization_config: Mapping[str, Any] | None = field(
        default_factory=lambda: dict(QUANTIZATION)
    )
    model_type: str = "deepseek_v4"
    architectures: tuple[str, ...] = ("DeepseekV4ForCausalLM",)
    transformers_version: str = "4.57.1"
    # how to prompt the model, not what it is: dsv4's own key, no part of a comparison
    effort_revision: str | None = field(default=None, compare=False)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):
                object.__setattr__(self, f.name, tuple(value))
        _check(self)

    # ---- derived once, read by the model -------------------------------------------------

    @cached_property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each main layer; a draft's blocks are always SLIDING."""
        ratios = self.compress_ratios[: self.num_hidden_layers]
        named = self.extra.get("layer_types")
        if named is not None:
            return tuple(LayerKind(name) for name in named[: self.num_hidden_layers])
        csa, hca = _named_ratios(ratios)
        kinds = {0: LayerKind.SLIDING, hca: LayerKind.HCA, csa: LayerKind.CSA}
        return tuple(kinds[ratio] for ratio in ratios)

    def kind(self, layer: int) -> LayerKind:
        """The kind of main layer `layer`, or of a draft's block numbered after the last one."""
        return self.layer_kinds[layer] if layer < self.num_hidden_layers else LayerKind.SLIDING

    def is_hashed(self, layer: int) -> bool:
        """Whether a layer's experts come from the token id; a draft's never do."""
        return layer < min(self.num_hash_layers, self.num_hidden_layers)

    @property
    def draft_stages(self) -> int:
        """Blocks `mtp.0 …`. A DSpark draft has one for each ratio after those of the layers."""
        if self.dspark_block_size:
            return len(self.compress_ratios) - self.num_hidden_layers
        return self.num_nextn_predict_layers

    @property
    def is_dspark(self) -> bool:
        """Whether the draft is a block of tokens (DSpark), not the next one (MTP)."""
        return bool(self.dspark_block_size) and self.draft_stages > 0

    def without_draft(self) -> Self:
        """The same main model alone."""
        return self.replace(
            **dict.fromkeys(DSPARK_FIELDS),
            num_nextn_predict_layers=0,
            compress_ratios=self.compress_ratios[: self.num_hidden_layers],
        )

    # ---- in and out ----------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A config from config.json's object. Unknown fields are kept in `extra`."""
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        extra = {key: value for key, value in values.items() if key not in known}
        absent = {"rope_scaling": None, "quantization_config": None, "expert_dtype": None}
        given = {key: value for key, value in values.items() if key in known}
        return cls(**(absent | given), extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The object of config.json: every official field, then the unknown ones. A field whose
        value None means "absent" is left out unless it was read."""
        values: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "extra" or (value is None):
                continue
            values[f.name] = list(value) if isinstance(value, tuple) else value
        return values | dict(self.extra)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read `path`: a config.json or the folder of one.

        Raises: FileNotFoundError, ConfigError (bad JSON, or a value that breaks a rule).
        """
        file = Path(path)
        file = file / "config.json" if file.is_dir() else file
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{file} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{file} must hold a JSON object, found {type(values).__name__}")
        return cls.from_dict(values)

    def to_json(self) -> str:
        """The text of config.json."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, checked anew."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_preset(cls, name: str) -> Self:
        """`flash` (284B), `pro` (1.6T), both with an MTP block; `flash-0731`, `pro-0813`, the same
        with a DSpark draft; or `nano` (a model for a laptop's CPU)."""
        if name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
        return cls(**PRESETS[name])


FLASH: dict[str, Any] = {}
PRO: dict[str, Any] = {
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "o_groups": 16,
    "compress_ratios": _alternating((128, 128), 61),
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
        "compress_ratios": _alternating((0, 0), 6),
        "index_n_heads": 4,
        "index_head_dim": 64,
        "index_topk": 64,
        "n_routed_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "max_position_embeddings": 16384,
    },
    "flash-0731": FLASH
    | {
        "compress_ratios": _alternating((0, 0), 43, drafts=3),
        "dspark_block_size": 5,
        "dspark_noise_token_id": 128799,
        "dspark_target_layer_ids": (40, 41, 42),
        "dspark_markov_rank": 256,
    },
    "pro-0813": PRO
    | {
        "compress_ratios": _alternating((128, 128), 61, drafts=3),
        "dspark_block_size": 5,
        "dspark_noise_token_id": 128799,
        "dspark_target_layer_ids": (58, 59, 60),
        "dspark_markov_rank": 512,
    },
}


def _named_ratios(ratios: tuple[int, ...]) -> tuple[int, int]:
    """The ratios that mean CSA and HCA: 4 and 128, or else the smaller and larger of two."""
    distinct = sorted(set(ratios) - {0})
    if set(distinct) <= {4, 128}:
        return 4, 128
    if len(distinct) == 2:
        return distinct[0], distinct[1]
    raise ConfigError(
        f"compress_ratios = {list(ratios)}: ratios other than 4 and 128 must be two distinct "
        "numbers (the smaller is CSA, the larger HCA), or name each layer in layer_types"
    )


def _check(config: Config) -> None:
    """Raise ConfigError on the first value that breaks a rule."""

    def rule(name: str, holds: bool, text: str) -> None:
        if not holds:
            raise ConfigError(f"{name} = {getattr(config, name)!r}: {text}")

    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.type == "int" and (not isinstance(value, int) or isinstance(value, bool)):
            raise ConfigError(f"{f.name} = {value!r}: must be an integer")
        if f.type == "float" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"{f.name} = {value!r}: must be a number")
    counts = (
        "vocab_size hidden_size num_hidden_layers num_attention_heads head_dim qk_rope_head_dim "
        "q_lora_rank o_groups o_lora_rank sliding_window index_n_heads index_head_dim index_topk "
        "n_routed_experts num_experts_per_tok moe_intermediate_size hc_mult hc_sinkhorn_iters "
        "max_position_embeddings"
    )
    for name in counts.split():
        rule(name, getattr(config, name) >= 1, "must be at least 1")
    for name in ("rope_theta", "compress_rope_theta", "rms_norm_eps", "swiglu_limit", "hc_eps"):
        rule(name, getattr(config, name) > 0, "must be positive")
    rule("model_type", config.model_type == "deepseek_v4", "must be deepseek_v4")
    rule("num_key_value_heads", config.num_key_value_heads == 1, "V4 has one key-value head")
    rule("n_shared_experts", config.n_shared_experts == 1, "V4 has one shared expert")
    rule("scoring_func", config.scoring_func == "sqrtsoftplus", "must be sqrtsoftplus")
    rule("hidden_act", config.hidden_act == "silu", "must be silu")
    rule("norm_topk_prob", config.norm_topk_prob is True, "must be true")
    rule("attention_bias", config.attention_bias is False, "must be false")
    rule("tie_word_embeddings", config.tie_word_embeddings is False, "must be false")
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
    rule("num_hash_layers", config.num_hash_layers >= 0, "must not be negative")
    rule("num_nextn_predict_layers", config.num_nextn_predict_layers in (0, 1), "must be 0 or 1")
    rule("expert_dtype", config.expert_dtype in (None, "fp4", "fp8", "bf16"), "fp4, fp8 or bf16")
    known = " or ".join(EFFORT_REVISIONS)
    rule("effort_revision", config.effort_revision in (None, *EFFORT_REVISIONS), f"must be {known}")
    _check_layers(config, rule)
    _check_dspark(config, rule)
    _check_rope(config)


def _check_layers(config: Config, rule: Any) -> None:
    layers, mtp = config.num_hidden_layers, config.num_nextn_predict_layers
    rule("compress_ratios", isinstance(config.compress_ratios, tuple), "must be a list")
    tail = len(config.compress_ratios) - layers
    rule(
        "compress_ratios",
        tail >= 0 if config.dspark_block_size else tail in (0, mtp),
        f"needs one entry for each of {layers} layers, and may have one more for each MTP block "
        f"({mtp}) or, where dspark_block_size is set, for each stage of the DSpark draft",
    )
    rule(
        "compress_ratios",
        all(
            isinstance(r, int) and not isinstance(r, bool) and r >= 0 and r != 1
            for r in config.compress_ratios
        ),
        "every ratio must be 0 or an integer of at least 2",
    )
    rule("compress_ratios", not any(config.compress_ratios[layers:]), "a draft has ratio 0")
    named = config.extra.get("layer_types")
    if named is not None:
        words = [kind.value for kind in LayerKind]
        if not isinstance(named, list | tuple) or len(named) < layers or set(named) - set(words):
            raise ConfigError(f"layer_types = {named!r}: needs {layers} entries out of {words}")
    for ratio, kind in zip(config.compress_ratios, config.layer_kinds, strict=False):
        rule(
            "compress_ratios",
            (ratio == 0) == (kind is LayerKind.SLIDING),
            "layer_types must name ratio 0, and no other, sliding_attention",
        )


def _check_dspark(config: Config, rule: Any) -> None:
    for name in DSPARK_FIELDS:
        value = getattr(config, name)
        whole = value if isinstance(value, tuple) else (value,)
        if value is not None and not all(type(number) is int for number in whole):
            kind = "a list of integers" if name == "dspark_target_layer_ids" else "an integer"
            raise ConfigError(f"{name} = {value!r}: must be {kind}")
        if value is None and config.dspark_block_size:
            raise ConfigError(f"{name} is missing: dspark_block_size promises a DSpark draft")
    if not config.dspark_block_size:
        return
    window, layers, vocab = config.sliding_window, config.num_hidden_layers, config.vocab_size
    block, noise, targets, rank = (getattr(config, name) for name in DSPARK_FIELDS)
    rule(
        "dspark_block_size",
        1 <= block <= window,
        f"must be from 1 to sliding_window ({window}): rejected drafts are taken back",
    )
    rule("dspark_noise_token_id", 0 <= noise < vocab, f"must be a token of the {vocab:,}")
    rule("dspark_markov_rank", rank >= 1, "must be at least 1")
    rule(
        "dspark_target_layer_ids",
        isinstance(targets, tuple)
        and len(targets) > 0
        and list(targets) == sorted(set(targets))
        and 0 <= targets[0] <= targets[-1] < layers,
        f"must list layers of 0 … {layers - 1} in ascending order",
    )


def _check_rope(config: Config) -> None:
    scaling = config.rope_scaling
    if scaling is None:
        return
    if not isinstance(scaling, Mapping) or scaling.get("type", scaling.get("rope_type")) != "yarn":
        raise ConfigError(f"rope_scaling = {scaling!r}: must be null or of type yarn")
    for key in ("factor", "beta_fast", "beta_slow", "original_max_position_embeddings"):
        value = scaling.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"rope_scaling.{key} = {value!r}: must be a positive number")
