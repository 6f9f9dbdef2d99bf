"""dsv4: the whole of DeepSeek-V4 in one readable PyTorch codebase.

The names below are imported when they are first used: `import dsv4.protocol` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsv4.checkpoint.errors import CheckpointError
    from dsv4.checkpoint.load import load
    from dsv4.checkpoint.official import save
    from dsv4.config import Config, ConfigError, LayerKind
    from dsv4.generation import Completion, generate
    from dsv4.model.cache import Cache
    from dsv4.model.transformer import Transformer
    from dsv4.sampling import Sampling
    from dsv4.tokenizer import Tokenizer

_HOMES = {
    "Cache": "dsv4.model.cache",
    "CheckpointError": "dsv4.checkpoint.errors",
    "Completion": "dsv4.generation",
    "Config": "dsv4.config",
    "ConfigError": "dsv4.config",
    "LayerKind": "dsv4.config",
    "Sampling": "dsv4.sampling",
    "Tokenizer": "dsv4.tokenizer",
    "Transformer": "dsv4.model.transformer",
    "generate": "dsv4.generation",
    "load": "dsv4.checkpoint.load",
    "save": "dsv4.checkpoint.official",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dsv4' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
