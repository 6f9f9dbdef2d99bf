"""How much white space JSON of a schema may hold in a row: what printing it in lines needs.

A line's end (two characters) and four spaces for each level that the schema can be deep;
WIDEST where there is no such bound. A weak model would write blanks for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

UNBOUNDED = 31  # levels
WIDEST = 2 + 4 * UNBOUNDED
CHOICES = ("anyOf", "oneOf", "allOf")
INSIDE = ("items", "additionalProperties", "contains", "additionalItems", "unevaluatedProperties")
LISTED = ("properties", "patternProperties")


def most_blanks(schema: Any) -> int:
    """Characters of white space in a row, for JSON of a schema."""
    return 2 + 4 * _levels(schema, schema, ())


def _levels(schema: Any, root: Any, within: tuple[str, ...]) -> int:
    """Objects and lists inside one another; UNBOUNDED where the schema lets anything stand."""
    if schema is False:
        return 0
    if not isinstance(schema, Mapping):
        return UNBOUNDED
    found: list[int] = []
    if "$ref" in schema:
        place = str(schema["$ref"])
        if place in within:
            return UNBOUNDED
        found.append(_levels(_resolved(place, root), root, (*within, place)))
    for value in (*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())):
        found.append(_depth(value))
    for choice in CHOICES:
        found += [_levels(one, root, within) for one in schema.get(choice) or ()]
    kinds = schema.get("type") or ()
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    parts = [_levels(one, root, within) for one in _parts(schema)]
    if parts:
        found.append(1 + max(parts))
    elif kinds & {"object", "array"}:
        return UNBOUNDED
    if not found and not kinds:
        return UNBOUNDED
    return min(UNBOUNDED, max(found, default=0))


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Schemas of what an object or a list holds."""
    for key in LISTED:
        own = schema.get(key)
        yield from own.values() if isinstance(own, Mapping) else ()
    for key in INSIDE:
        if key in schema:
            own = schema[key]
            yield from own if isinstance(own, list) else (own,)
    yield from schema.get("prefixItems") or ()


def _resolved(place: str, root: Any) -> Any:
    """What "#/$defs/Name" stands for; None, which is unbounded, where nothing is there."""
    here = root
    for key in place.removeprefix("#").split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        here = here.get(key) if isinstance(here, Mapping) else None
    return here if place.startswith("#") else None


def _depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, inside), default=0)
