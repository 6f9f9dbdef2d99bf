"""The official config.json as a frozen dataclass.

Field names are the release's own. A field that dsv4 does not know is kept in `extra` and written
back; a value that no model can be built from is a `ConfigError` naming field, value and rule.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from dsv4.config.absent import absent, refuse_absent
from dsv4.config.base import DSPARK_FIELDS, QUANTIZATION, YARN, ConfigError, LayerKind, kinds_of
from dsv4.config.presets import PRESETS, alternating
from dsv4.config.resaved import in_released_words, is_resaved
from dsv4.config.rules import check, check_field, check_object
from dsv4.files import FileError, read_json

LARGEST = 1 << 24  # bytes of a config.json; the release's has 1,967


@dataclass(frozen=True)
class Fields:
    """config.json in the release's words, each field checked by itself; some may be absent.

    `resaved`: transformers 5 wrote it, so that what it says of a draft means nothing.
    """

    values: dict[str, Any]
    resaved: bool


def fields_of(values: Mapping[str, Any]) -> Fields:
    """The fields of config.json's object. Raises ConfigError."""
    check_object(values)
    found = in_released_words(values)
    for name, value in found.items():
        check_field(name, value)
    return Fields(found, is_resaved(values))


def read_fields(path: str | os.PathLike[str]) -> Fields:
    """The fields of `path`: a config.json or the folder of one.

    Raises: FileNotFoundError, ConfigError that names the file
    (no regular file, bad JSON, a value that breaks a rule).
    """
    file = Path(path)
    file = file / "config.json" if file.is_dir() else file
    try:
        values = read_json(file, LARGEST)
    except FileError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold a JSON object, found {type(values).__name__}")
    try:
        return fields_of(values)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


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
    compress_ratios: tuple[int, ...] = alternating((0, 0), 43)
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
        check(self)

    # ---- derived once, read by the model -------------------------------------------------

    @cached_property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each main layer; a draft's blocks are always SLIDING."""
        ratios = self.compress_ratios[: self.num_hidden_layers]
        named = self.extra.get("layer_types")
        if named is not None:
            return tuple(LayerKind(name) for name in named[: self.num_hidden_layers])
        return kinds_of(ratios)

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
        """A config from config.json's object, in the release's words or in transformers 5's.

        Unknown fields are kept in `extra`.
        Raises: ConfigError for a value that breaks a rule, or an absent field that decides the
        architecture.
        """
        return cls.from_fields(fields_of(values).values)

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """A config from fields in the release's words. Raises ConfigError."""
        refuse_absent(absent(values))
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        extra = {key: value for key, value in values.items() if key not in known}
        without = {"quantization_config": None, "expert_dtype": None}
        given = {key: value for key, value in values.items() if key in known}
        return cls(**(without | given), extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The object of config.json: every official field, then the unknown ones. A field whose
        value None means "absent" is left out; only `rope_scaling` says null."""
        values: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "extra" or (value is None and f.name != "rope_scaling"):
                continue
            values[f.name] = list(value) if isinstance(value, tuple) else value
        return copy.deepcopy(values | dict(self.extra))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read `path`: a config.json or the folder of one.

        Raises: FileNotFoundError, and ConfigError as `from_dict` or for a file that is no JSON.
        """
        return cls.from_fields(read_fields(path).values)

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
