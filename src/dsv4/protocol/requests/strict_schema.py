"""A strict schema: what a grammar can hold a reply to, and nothing else.

Nodes are anyOf, $ref or one type; every object names its properties, requires them all and takes
no others. Keywords that could not be enforced fall away, as in DeepSeek's API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests.fields import missing, place, wrong
from dsv4.protocol.schema import VALUES

_FORMATS = ("email", "hostname", "ipv4", "ipv6", "uuid")
_NUMBERS = (
    *("const", "default", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "multipleOf",
)
_PLAIN = ("string", "number", "integer", "boolean", "null")
_TYPES = (*_PLAIN, "array", "object")


def strict_schema(schema: Any, path: str) -> dict[str, Any]:
    """The schema of a strict tool as it is enforced. Raises RequestError."""
    if schema is None:
        schema = {"type": "object"}
    if not isinstance(schema, Mapping):
        raise wrong(schema, path, "a JSON Schema of an object")
    try:
        node = _node(schema, path, top=True)
    except RecursionError:
        raise RequestError("is nested too deeply", path) from None
    if node.get("type") != "object":
        raise RequestError(
            "The top level of the function parameters schema must be an object.", path
        )
    return node


def enforced(schema: Any) -> Any:
    """What a reply is held to: the client's own schema with nothing dropped, strict objects in it.

    The model is shown `strict_schema`, as by DeepSeek's API, which has no enum of numbers and no
    `$defs`.
    """
    if isinstance(schema, list):
        return [enforced(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {key: value if key in VALUES else enforced(value) for key, value in schema.items()}
    if out.get("type") == "object":
        out |= {"required": list(out.get("properties") or ()), "additionalProperties": False}
    return out


def _node(schema: Any, path: str, top: bool = False) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise wrong(schema, path, "a strict schema, an object")
    kind = schema.get("type")
    if kind is not None:
        return _typed(schema, kind, path, top)
    if schema.get("anyOf") is not None:
        return _any_of(schema, path)
    if schema.get("$ref") is not None:
        return {"$ref": _text(schema["$ref"], place(path, "$ref")), **_describe(schema, path)}
    raise RequestError(
        "Invalid tool parameters schema : one of `type`, `anyOf`, `$ref` field is required", path
    )


def _any_of(schema: Mapping[str, Any], path: str) -> dict[str, Any]:
    where = place(path, "anyOf")
    if not isinstance(schema["anyOf"], list):
        raise wrong(schema["anyOf"], where, "a list of schemas")
    parts = [_node(part, f"{where}[{i}]") for i, part in enumerate(schema["anyOf"])]
    return {"anyOf": parts, **_describe(schema, path)}


def _typed(schema: Mapping[str, Any], kind: Any, path: str, top: bool) -> dict[str, Any]:
    if isinstance(kind, list):
        if not all(isinstance(name, str) and name in _PLAIN for name in kind):
            raise wrong(kind, place(path, "type"), f"some of {', '.join(_PLAIN)}")
        return {"type": kind, **_describe(schema, path)}
    if kind == "object":
        return _object(schema, path, top)
    if kind == "array":
        if schema.get("items") is None:
            raise missing(path, "items")
        items = _node(schema["items"], place(path, "items"))
        return {"type": "array", "items": items, **_describe(schema, path)}
    if kind == "string":
        return {"type": "string", **_describe(schema, path), **_string(schema, path)}
    if kind in ("number", "integer"):
        kept = {key: schema[key] for key in _NUMBERS if schema.get(key) is not None}
        for key, value in kept.items():
            whole = isinstance(value, int) or (kind == "number" and isinstance(value, float))
            if isinstance(value, bool) or not whole:
                raise wrong(value, place(path, key), f"a JSON {kind}")
        return {"type": kind, **_describe(schema, path), **kept}
    if kind in ("boolean", "null"):
        return {"type": kind, **_describe(schema, path)}
    raise wrong(kind, place(path, "type"), f"one of {', '.join(_TYPES)}")


def _string(schema: Mapping[str, Any], path: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if schema.get("pattern") is not None:
        out["pattern"] = _text(schema["pattern"], place(path, "pattern"))
    if schema.get("format") is not None:
        if schema["format"] not in _FORMATS:
            raise RequestError(
                f"Invalid tool parameters schema : must be one of {', '.join(_FORMATS)},"
                f" not {schema['format']!r}",
                place(path, "format"),
            )
        out["format"] = schema["format"]
    if schema.get("enum") is not None:
        where = place(path, "enum")
        if not isinstance(schema["enum"], list):
            raise wrong(schema["enum"], where, "a list of texts")
        out["enum"] = [_text(value, f"{where}[{i}]") for i, value in enumerate(schema["enum"])]
    return out


def _object(schema: Mapping[str, Any], path: str, top: bool) -> dict[str, Any]:
    given = schema.get("properties")
    if given is not None and not isinstance(given, Mapping):
        raise wrong(given, place(path, "properties"), "an object of schemas")
    if not given and not top:
        raise RequestError("An object with no properties is not allowed.", path)
    where = place(path, "properties")
    properties = {name: _node(part, place(where, name)) for name, part in (given or {}).items()}
    _check_required(schema.get("required"), properties, place(path, "required"))
    if schema.get("additionalProperties") not in (None, False):
        raise RequestError("must not be true", place(path, "additionalProperties"))
    out = {"type": "object", "properties": properties, "additionalProperties": False}
    out |= {"required": list(properties), **_describe(schema, path)}
    if schema.get("$def") is not None:
        where = place(path, "$def")
        if not isinstance(schema["$def"], Mapping):
            raise wrong(schema["$def"], where, "an object of schemas")
        out["$def"] = {
            name: _node(part, place(where, name)) for name, part in schema["$def"].items()
        }
    return out


def _check_required(required: Any, properties: Mapping[str, Any], where: str) -> None:
    if required is None:
        return
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise wrong(required, where, "a list of names")
    for number, name in enumerate(required):
        if name in required[:number]:
            raise RequestError(f"repeats {name!r}", f"{where}[{number}]")
        if name not in properties:
            raise RequestError(f"{name!r} is no property", f"{where}[{number}]")
    if len(required) < len(properties):
        left = ", ".join(name for name in properties if name not in required)
        raise RequestError(f"a strict object requires all its properties, also {left}", where)


def _describe(schema: Mapping[str, Any], path: str) -> dict[str, str]:
    value = schema.get("description")
    return {} if value is None else {"description": _text(value, place(path, "description"))}


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise wrong(value, where, "text")
    return value
