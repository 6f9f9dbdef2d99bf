"""dsv4: the whole of DeepSeek-V4 in one readable PyTorch codebase."""

from __future__ import annotations

from dsv4.config import Config, ConfigError, LayerKind
from dsv4.model.cache import Cache
from dsv4.model.transformer import Transformer

__all__ = ["Cache", "Config", "ConfigError", "LayerKind", "Transformer"]
