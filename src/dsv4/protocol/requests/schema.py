"""Is it a JSON Schema? Known keywords must hold what draft 2020-12 says; others are let pass.

References must stay inside the document, since nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests.fields import place, wrong

_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_ONE = (
    *("items", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_COUNTS = (
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("minContains", "maxContains"),
)
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_TEXTS = (
    *("title", "description", "$comment", "format", "contentEncoding", "contentMediaType"),
    *("$schema", "$id", "$anchor", "$ref", "$dynamicRef", "$dynamicAnchor", "pattern"),
)
_FLAGS = ("deprecated", "readOnly", "writeOnly", "uniqueItems")


def check_schema(schema: Any, path: str) -> None:
    """Raises RequestError with the path of the keyword that no schema may have so."""
    _check(schema, path, schema, 0)


def _check(schema: Any, path: str, root: Any, depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise wrong(schema, path, "a JSON Schema: an object, true or false")
    if depth > 127:
        raise RequestError("is nested deeper than 127 schemas", path)
    for key, value in schema.items():
        where = place(path, key)
        if key in _ONE:
            _check(value, where, root, depth + 1)
        elif key in _LISTS:
            if not isinstance(value, list) or not value:
                raise wrong(value, where, "a list of schemas, not empty")
            for number, part in enumerate(value):
                _check(part, f"{where}[{number}]", root, depth + 1)
        elif key in _NAMED:
            if not isinstance(value, Mapping):
                raise wrong(value, where, "an object of schemas")
            for name, part in value.items():
                if key == "patternProperties":
                    _pattern(name, where)
                _check(part, place(where, name), root, depth + 1)
        elif key in _RULES:
            _RULES[key](value, where)
    if isinstance(schema.get("$ref"), str):
        _reference(schema["$ref"], place(path, "$ref"), root)


def _type(value: Any, where: str) -> None:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or any(n not in _TYPES for n in names):
        raise wrong(value, where, f"one or some of {', '.join(_TYPES)}")
    _unique(names, where)


def _required(value: Any, where: str) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise wrong(value, where, "a list of names")
    _unique(value, where)


def _unique(names: list[str], where: str) -> None:
    if len(set(names)) < len(names):
        raise RequestError("names something twice", where)


def _dependent(value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise wrong(value, where, "an object of lists of names")
    for name, names in value.items():
        _required(names, place(where, name))


def _enum(value: Any, where: str) -> None:
    if not isinstance(value, list):
        raise wrong(value, where, "a list")


def _count(value: Any, where: str) -> None:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or value < 0:
        raise wrong(value, where, "an integer, not negative")


def _bound(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(value, where, "a number")
    if where.endswith("multipleOf") and not value > 0:
        raise wrong(value, where, "a number above 0")


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise wrong(value, where, "text")
    if where.endswith(".pattern"):
        _pattern(value, where)


def _pattern(value: str, where: str) -> None:
    try:
        re.compile(re.sub(r"\(\?<(?=\w)", "(?P<", re.sub(r"\\[pP](\{\w+\}|\w)", r"\\w", value)))
    except (re.error, RecursionError, OverflowError) as error:
        raise RequestError(f"{value!r} is no regular expression: {error}", where) from error


def _flag(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise wrong(value, where, "true or false")


def _examples(value: Any, where: str) -> None:
    if not isinstance(value, list):
        raise wrong(value, where, "a list")


_RULES: dict[str, Callable[[Any, str], None]] = {
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys(_BOUNDS, _bound),
    **dict.fromkeys(_TEXTS, _text),
    **dict.fromkeys(_FLAGS, _flag),
    "type": _type,
    "required": _required,
    "enum": _enum,
    "examples": _examples,
    "dependentRequired": _dependent,
}


def _reference(reference: str, where: str, root: Any) -> None:
    """`#`, `#/a/b` or `#anchor` of the same document."""
    if not reference.startswith("#"):
        raise RequestError(f"{reference!r} is outside the schema, and nothing is fetched", where)
    if not reference.startswith("#/"):
        return
    found = root
    for step in unquote(reference[2:]).split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            raise RequestError(f"{reference!r} does not exist", where)
