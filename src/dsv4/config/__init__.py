"""The official config.json: fields, presets, rules, and the words of those who re-save it."""

from dsv4.config.base import (
    DSPARK_FIELDS,
    EFFORT_REVISIONS,
    QUANTIZATION,
    YARN,
    ConfigError,
    LayerKind,
)
from dsv4.config.config import Config, Fields, read_fields
from dsv4.config.presets import PRESETS

__all__ = [
    "DSPARK_FIELDS",
    "EFFORT_REVISIONS",
    "PRESETS",
    "QUANTIZATION",
    "YARN",
    "Config",
    "ConfigError",
    "Fields",
    "LayerKind",
    "read_fields",
]
