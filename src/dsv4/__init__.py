"""dsv4: the whole of DeepSeek-V4 in one readable PyTorch codebase."""

from __future__ import annotations

from dsv4.checkpoint.load import load
from dsv4.checkpoint.official import save
from dsv4.checkpoint.reader import CheckpointError
from dsv4.config import Config, ConfigError, LayerKind
from dsv4.generation import Completion, Sampling, generate
from dsv4.model.cache import Cache
from dsv4.model.transformer import Transformer
from dsv4.tokenizer import Tokenizer

__all__ = [
    "Cache",
    "CheckpointError",
    "Completion",
    "Config",
    "ConfigError",
    "LayerKind",
    "Sampling",
    "Tokenizer",
    "Transformer",
    "generate",
    "load",
    "save",
]
