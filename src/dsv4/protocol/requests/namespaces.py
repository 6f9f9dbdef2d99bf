"""Tools of the Responses API: functions, namespaces of functions, and one custom tool.

A function `f` of a namespace `n` is called `n__f`; should another tool have that name, `n__f_1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests import fields
from dsv4.protocol.requests.options import RequestOptions
from dsv4.protocol.requests.tools import Offer, check_name

_WEB = ("web_search", "web_search_2025_08_26")
_INPUT = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"input": {"type": "string", "description": "The whole input of the tool."}},
    "required": ["input"],
}


@dataclass
class Declared:
    """Tools as declared: what is offered, where names come from, which are custom."""

    offers: list[Offer] = field(default_factory=list)
    namespaces: dict[str, tuple[str, str]] = field(default_factory=dict)
    customs: list[str] = field(default_factory=list)
    known: list[Any] = field(default_factory=list)

    @property
    def custom(self) -> frozenset[str]:
        """The names of custom tools."""
        return frozenset(self.customs)

    def name_of(self, name: str, namespace: str | None) -> str:
        """What a tool is called in the prompt."""
        if not namespace:
            return name
        for full, origin in self.namespaces.items():
            if origin == (namespace, name):
                return full
        return joined(namespace, name)


def joined(namespace: str, name: str) -> str:
    """The name of a namespace's function."""
    between = "" if namespace.endswith("_") or name.startswith("_") else "__"
    return f"{namespace}{between}{name}"


def declare(tools: list[Any], options: RequestOptions) -> Declared:
    """Reads the tools of a request. Raises RequestError."""
    out = Declared()
    taken = {
        tool["name"]
        for tool in tools
        if isinstance(tool, Mapping)
        and tool.get("type") in ("function", "custom")
        and isinstance(tool.get("name"), str)
    }
    for number, tool in enumerate(tools):
        path = f"tools[{number}]"
        kind = fields.needed(fields.mapping(tool, path), "type", path)
        if kind == "function":
            out.offers.append(_function(tool, path, options))
        elif kind == "custom":
            out.offers.append(_custom(tool, path))
            out.customs.append(tool["name"])
        elif kind == "namespace":
            _namespace(tool, path, options, out, taken)
        elif kind in _WEB:
            if options.drop_web_search is False:
                raise RequestError("Server tools are not supported", path)
        elif kind != "tool_search":
            continue
        out.known.append(tool)
    return out


def _function(tool: Mapping[str, Any], path: str, options: RequestOptions) -> Offer:
    name = fields.needed(tool, "name", path)
    description = fields.text(tool, "description", path)
    strict = fields.flag(tool, "strict", path)
    check_name(name, path, options)
    return Offer(name, description, tool.get("parameters"), strict, path, f"{path}.parameters")


def _custom(tool: Mapping[str, Any], path: str) -> Offer:
    name = fields.needed(tool, "name", path)
    if name != "apply_patch":
        raise RequestError(
            f"Unsupported custom tool: {name!r}. Only 'apply_patch' is supported.", f"{path}.name"
        )
    description = fields.text(tool, "description", path)
    grammar = fields.text(fields.inner(tool, "format", path), "definition", f"{path}.format")
    texts = filter(None, (description, grammar))
    return Offer(
        name, "\n\n".join(texts) or None, deepcopy(_INPUT), None, path, f"{path}.parameters"
    )


def _namespace(
    tool: Mapping[str, Any], path: str, options: RequestOptions, out: Declared, taken: set[str]
) -> None:
    namespace = fields.needed(tool, "name", path)
    fields.text(tool, "description", path)
    check_name(namespace, path, options)
    if tool.get("tools") is None:
        raise fields.missing(path, "tools")
    seen: set[str] = set()
    for number, inner in enumerate(fields.items(tool, "tools", path)):
        where = f"{path}.tools[{number}]"
        kind = fields.mapping(inner, where).get("type")
        if kind == "custom":
            raise RequestError("custom tools are not allowed inside a namespace", where)
        if kind != "function":
            raise fields.wrong(kind, f"{where}.type", '"function"')
        offer = _function(inner, where, options)
        if offer.name in seen and not options.lenient:
            raise RequestError("Tool names within a namespace must be unique.", f"{where}.name")
        seen.add(offer.name)
        name = full = joined(namespace, offer.name)
        suffix = 0
        while full in taken:
            suffix += 1
            full = f"{name}_{suffix}"
        taken.add(full)
        out.namespaces[full] = (namespace, offer.name)
        out.offers.append(offer._replace(name=full))
