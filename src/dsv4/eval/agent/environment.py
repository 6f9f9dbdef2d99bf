"""What an agent acts on: tools, each with a name, a schema and a call, and a state to grade.

    result = text of the tool | "Error: …", if the agent called it wrongly

A wrong call is the agent's to mend, so it is told; what a tool raises beside ToolError is a fault
of the environment, and the sample has failed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


class ToolError(ValueError):
    """What the agent did wrong, in words for it."""


class EnvironmentFaultError(RuntimeError):
    """What went wrong by no fault of the agent."""


class Result(NamedTuple):
    """What a call gave; `wrong`: that it was the agent's error."""

    text: str
    wrong: bool


@dataclass(frozen=True)
class Tool:
    """`parameters` is a JSON schema of an object; `call` takes them by name and gives a text."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    call: Callable[..., str]

    @property
    def schema(self) -> dict[str, Any]:
        """As requests carry it."""
        function = {"name": self.name, "description": self.description}
        return {"type": "function", "function": function | {"parameters": dict(self.parameters)}}


@dataclass(frozen=True)
class Environment:
    """Of one sample, for one agent. `state` is JSON that a grader reads."""

    tools: Sequence[Tool]
    state: Callable[[], Any] = lambda: None
    close: Callable[[], None] = lambda: None

    def do(self, name: str, arguments: str) -> Result:
        """One call as a model wrote it. Raises EnvironmentFaultError."""
        try:
            found = next((tool for tool in self.tools if tool.name == name), None)
            if found is None:
                names = ", ".join(tool.name for tool in self.tools)
                raise ToolError(f"there is no tool {name}; there are {names}")
            return Result(found.call(**_checked(found.parameters, arguments)), False)
        except ToolError as error:
            return Result(f"Error: {error}", True)
        except Exception as error:  # a tool can raise anything, and one sample is all it costs
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise EnvironmentFaultError(f"the tool {name} failed ({line})") from error


def parameters(**kinds: str) -> dict[str, Any]:
    """The schema of an object whose every field is needed: `path="string"`."""
    properties = {name: {"type": kind} for name, kind in kinds.items()}
    return {"type": "object", "properties": properties, "required": list(kinds)}


def _checked(schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The arguments as the tool takes them. Raises ToolError."""
    try:
        given = json.loads(text or "{}")
    except ValueError as error:
        raise ToolError(f"the arguments are no JSON ({error})") from error
    if not isinstance(given, dict):
        raise ToolError("the arguments are no object")
    known = schema.get("properties", {})
    if unknown := given.keys() - known.keys():
        raise ToolError(f"{min(unknown)} is no parameter; there are {', '.join(known) or 'none'}")
    if missing := [name for name in schema.get("required", ()) if name not in given]:
        raise ToolError(f"{missing[0]} is missing")
    for name, value in given.items():
        kind = known[name].get("type")
        if isinstance(kind, str) and not _is(value, kind):
            raise ToolError(f"{name} must be of type {kind}, not {json.dumps(value)[:60]}")
    return given


def _is(value: Any, kind: str) -> bool:
    if kind == "null" or kind not in KINDS:
        return kind != "null" or value is None
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, KINDS[kind])
