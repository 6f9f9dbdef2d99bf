"""What the parts of a config share: its error, the layer kinds, the release's fixed objects."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeGuard

SHOWN = 60  # characters of a value in a message


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


def broken(name: str, value: Any, rule: str) -> ConfigError:
    """The error for a field's value: short and on one line, however long the value is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a deep list
        text = f"a {type(value).__name__}"
    if len(text) > SHOWN:
        text = text[:SHOWN] + "…"
    return ConfigError(f"{name} = {text}: {rule}")


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is an integer; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def named_ratios(ratios: tuple[int, ...]) -> tuple[int, int]:
    """The ratios that mean CSA and HCA: 4 and 128, or else the smaller and larger of two."""
    distinct = sorted(set(ratios) - {0})
    if set(distinct) <= {4, 128}:
        return 4, 128
    if len(distinct) == 2:
        return distinct[0], distinct[1]
    raise broken(
        "compress_ratios",
        list(ratios),
        "ratios other than 4 and 128 must be two distinct numbers (the smaller is CSA, the larger "
        "HCA), or name each layer in layer_types",
    )


def kinds_of(ratios: tuple[int, ...]) -> tuple[LayerKind, ...]:
    """The layer kinds that ratios mean by themselves."""
    csa, hca = named_ratios(ratios)
    kinds = {0: LayerKind.SLIDING, hca: LayerKind.HCA, csa: LayerKind.CSA}
    return tuple(kinds[ratio] for ratio in ratios)
