"""What a JSON schema says about the type of a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsv4.protocol.errors import ProtocolError

LARGEST = 2**53 - 1  # the integers that every reader of JSON has exactly
MULTIPLES = 1024  # the largest of which a grammar holds a value to multiples
_LOWEST, _HIGHEST = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
VALUES = ("enum", "const", "default", "examples")  # hold values, not schemas
TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")


def definitions_of(schema: Any) -> dict[str, Any]:
    """What the references of a schema may name."""
    given = schema if isinstance(schema, Mapping) else {}
    return {k: given[k] for k in ("$defs", "definitions") if isinstance(given.get(k), Mapping)}


def is_string(schema: Any, whole: Any = None) -> bool:
    """Whether a value is text, or null. `whole`: the schema whose definitions it may name."""
    if isinstance(schema, Mapping) and "type" not in schema:
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list) and values:
            return all(isinstance(value, str | None) for value in values) and any(values)
    try:
        types = types_of(schema, definitions_of(whole))
    except ProtocolError:  # a schema that says nothing clear
        return False
    return "string" in types and set(types) <= {"string", "null"}


def types_of(schema: Any, definitions: Mapping[str, Any], seen: tuple[str, ...] = ()) -> list[str]:
    """The JSON types that a schema allows, as far as it says. `seen`: the references on the way."""
    if not isinstance(schema, Mapping):
        return list(TYPES)
    if "type" in schema:
        given = schema["type"]
        types = [given] if isinstance(given, str) else [*sequence_of(schema, "type")]
        if not types or any(name not in TYPES for name in types):
            raise ProtocolError(f"type = {given!r}: must be of {', '.join(TYPES)}")
        return types
    if "$ref" in schema:
        reference = schema["$ref"]
        if reference in seen:
            return list(TYPES)
        return types_of(_definition(reference, definitions), definitions, (*seen, reference))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            parts = sequence_of(schema, key)
            allowed = {name for part in parts for name in types_of(part, definitions, seen)}
            return [name for name in TYPES if name in allowed]
    return list(TYPES)


def bounded(schema: Any) -> Any:
    """The schema with integers that end: where no bound is given, those within ±LARGEST. A model
    may go on with digits for ever, where a text that is held to a grammar has nothing else.
    Multiples are left: a grammar holds an integer to them, or to bounds, not to both. What a schema
    allows without a word is said (see `_explicit`). Raises ProtocolError where nothing fits."""
    if isinstance(schema, list | tuple):
        return [bounded(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {key: value if key in VALUES else bounded(value) for key, value in schema.items()}
    _explicit(out)
    if out.get("type") != "integer" or 0 < out.get("multipleOf", 0) <= MULTIPLES:
        return out
    limits = [out[key] for key in (*_LOWEST, *_HIGHEST) if isinstance(out.get(key), int | float)]
    if all(abs(limit) < LARGEST for limit in limits):
        if not out.keys() & {*_LOWEST, "enum", "const"}:
            out["minimum"] = -LARGEST
        if not out.keys() & {*_HIGHEST, "enum", "const"}:
            out["maximum"] = LARGEST
    return out


def _explicit(schema: dict[str, Any]) -> None:
    """Say what is allowed though it is not named, in place: a grammar counts it among nothing.

    Items of any kind where there are none, required names that are no properties, and any
    properties where only their number is said.
    """
    given = schema.get("type")
    types = [given] if isinstance(given, str) else given if isinstance(given, list) else ()
    counts = schema.keys() & {"minItems", "maxItems"}
    if "array" in types and counts and not schema.keys() & {"items", "prefixItems"}:
        schema["items"] = {}
    named = schema.get("properties", {})
    if "object" not in types or not isinstance(named, Mapping) or "patternProperties" in schema:
        return
    others = schema.get("additionalProperties", True)
    missing = [name for name in sequence_of(schema, "required") if name not in named]
    if missing and others is False:
        raise ProtocolError(f"required: {missing[0]!r} is no property, and no other is allowed")
    if missing:
        rest = dict.fromkeys(missing, others if isinstance(others, Mapping) else {})
        schema["properties"] = {**named, **rest}
    elif not named and schema.keys() & {"minProperties", "maxProperties"}:
        schema.setdefault("additionalProperties", True)


def sequence_of(schema: Mapping[str, Any], key: str) -> Sequence[Any]:
    """A keyword's list, () where there is none. Raises ProtocolError."""
    value = schema.get(key) or ()
    if not isinstance(value, list | tuple):
        raise ProtocolError(f"{key} = {value!r}: must be a list")
    return value


def _definition(reference: Any, definitions: Mapping[str, Any]) -> Any:
    """What `#/$defs/NAME` or `#/definitions/NAME` stands for."""
    path = reference.split("/") if isinstance(reference, str) else []
    if len(path) == 3 and path[0] == "#" and path[2] in definitions.get(path[1], {}):
        return definitions[path[1]][path[2]]
    raise ProtocolError(f"$ref = {reference!r}: must name a schema in $defs or definitions")
