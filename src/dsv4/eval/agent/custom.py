"""Tools of a user's own, for agents whose searches and services are not here.

FILE.py:NAME or package.module:NAME   a function of a sample that gives its `Environment`
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsv4.eval.agent.environment import Environment

if TYPE_CHECKING:
    from dsv4.eval.task import Sample


def environment_of(spec: str) -> Callable[[Sample], Environment]:
    """The function. Raises ValueError where there is none."""
    where, _, name = spec.rpartition(":")
    if not where or not name.isidentifier():
        raise ValueError(f"--tools {spec}: must be FILE.py:NAME or package.module:NAME")
    try:
        module = _file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:  # whatever the user's own code raises
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"--tools {spec} cannot be loaded ({line})") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f"--tools {spec}: {where} has no function {name}")
    return _checked(found, spec)


def _file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"dsv4_tools_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _checked(function: Callable[..., Any], spec: str) -> Callable[[Sample], Environment]:
    def environment(sample: Sample) -> Environment:
        found = function(sample)
        if not isinstance(found, Environment):
            raise ValueError(f"--tools {spec} gives a {type(found).__name__}, no Environment")
        return found

    return environment
