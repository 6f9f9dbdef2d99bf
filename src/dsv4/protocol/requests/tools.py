"""Tools of a request: names, schemas, which are in force, and what they make of the reply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests.fields import missing, place, wrong
from dsv4.protocol.requests.options import RequestOptions
from dsv4.protocol.requests.request import Constraint
from dsv4.protocol.requests.schema import check_schema
from dsv4.protocol.requests.strict_schema import enforced, strict_schema

_NAME = re.compile(r"[a-zA-Z0-9_-]+")
Choice = str | Mapping[str, Any]


class Offer(NamedTuple):
    """A tool as it is offered; the paths are those of its name and of its schema."""

    name: str
    description: str | None
    parameters: Any
    strict: bool | None
    path: str
    schema_path: str


class Force(NamedTuple):
    """The tools that may be called, in OpenAI's form, and the choice among them."""

    tools: list[dict[str, Any]]
    choice: Choice


def check_name(name: str, path: str, options: RequestOptions) -> None:
    """1 to 128 of a-z, A-Z, 0-9, _ and -; leniently whatever the markup can carry."""
    if options.lenient and name and '"' not in name:
        return
    if not name:
        raise too_short(place(path, "name"))
    if len(name) > 128:
        why = "string too long. Expected a string with maximum length 128, but got a string with"
        why += f" length {len(name)} instead."
    elif not _NAME.fullmatch(name):
        why = "string does not match pattern. Expected a string that matches the pattern"
        why += " '^[a-zA-Z0-9_-]+$'."
    else:
        return
    raise RequestError(f"Invalid '{place(path, 'name')}': {why}", place(path, "name"))


def too_short(name: str, path: str | None = None) -> RequestError:
    """The error of a text that must not be empty; `path` is its own, `name` the API's for it."""
    return RequestError(
        f"Invalid '{name}': empty string. Expected a string with minimum length 1, but got an"
        " empty string instead.",
        path or name,
    )


def in_force(
    offers: Sequence[Offer],
    choice: Choice,
    thinking: bool,
    options: RequestOptions,
    needs_schema: bool,
) -> Force:
    """The tools that the choice leaves; with `needs_schema` each must have one."""
    if choice == "none" or not offers:
        return Force([], "none" if choice == "none" else "auto")
    _check_unique(offers, options)
    tools = [_tool(offer, options, needs_schema) for offer in offers]
    if not isinstance(choice, str):
        name = choice["function"]["name"]
        tools = [tool for tool in tools if tool["function"]["name"] == name]
        if not tools:
            raise RequestError(
                f"Invalid value for 'tool_call': no function named '{name}' was specified in the"
                " 'tools' parameter.",
                "tool_choice",
            )
    if choice != "auto" and thinking and not options.think_then_call:
        raise RequestError("Thinking mode does not support this tool_choice", "tool_choice")
    return Force(tools, choice)


def check_strict(
    tools: Sequence[Mapping[str, Any]], path: str | None, options: RequestOptions
) -> None:
    """Strict tools go with none that are not, and with no response format, which is at `path`."""
    stricts = {bool(tool["function"]["strict"]) for tool in tools}
    if options.lenient or True not in stricts:
        return
    if len(stricts) > 1:
        raise RequestError(
            "Cannot use strict tool with non-strict tool in the same request", "tools"
        )
    if path is not None:
        raise RequestError("response_format should not be used with tools", path)


def _check_unique(offers: Sequence[Offer], options: RequestOptions) -> None:
    seen: set[str] = set()
    for offer in offers:
        if offer.name in seen and not options.lenient:
            raise RequestError("Tool names must be unique.", place(offer.path, "name"))
        seen.add(offer.name)


def _tool(offer: Offer, options: RequestOptions, needs_schema: bool) -> dict[str, Any]:
    schema = offer.parameters
    if offer.strict:
        try:
            schema = strict_schema(schema, offer.schema_path)
        except RequestError:
            if not options.lenient or not isinstance(schema, Mapping):
                raise
    elif schema is None and needs_schema and not options.lenient:
        raise missing(*offer.schema_path.rsplit(".", 1))
    elif schema is not None:
        _check_parameters(offer, options)
    function: dict[str, Any] = {
        "name": offer.name,
        "description": offer.description,
        "parameters": {} if schema is None else schema,
        "strict": offer.strict,
    }
    if offer.strict and offer.parameters is not None:
        function["enforced"] = enforced(offer.parameters)
    return {"type": "function", "function": function}


def _check_parameters(offer: Offer, options: RequestOptions) -> None:
    schema = offer.parameters
    if options.lenient:
        if not isinstance(schema, Mapping):
            raise wrong(schema, offer.schema_path, "a JSON Schema, an object")
        return
    check_schema(schema, offer.schema_path)
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind != "object":
        raise RequestError(
            f"Invalid schema for function '{offer.name}': schema must be a JSON Schema of"
            f" 'type: \"object\"', got 'type: {Constraint('json', [kind]).text()[1:-1]}'.",
            place(offer.schema_path, "type"),
        )


def read_format(
    given: Mapping[str, Any], path: str, inner: Mapping[str, Any], options: RequestOptions
) -> tuple[dict[str, Any] | None, Constraint | None]:
    """What a response format adds to the prompt, and what it holds the reply to.

    `inner` is what names the schema of a json_schema.
    """
    kind = given.get("type")
    if kind == "json_object":
        return {"type": "json_object"}, Constraint("json")
    if kind == "regex":
        if not isinstance(given.get("regex"), str):
            raise wrong(given.get("regex"), place(path, "regex"), "a regular expression")
        return None, Constraint("regex", given["regex"])
    if kind != "json_schema":
        return None, None
    schema = inner.get("schema")
    where = f"{path}.json_schema.schema" if inner is not given else f"{path}.schema"
    if schema is None:
        raise RequestError("is missing", where)
    told = schema
    if inner.get("strict"):
        told = strict_schema(schema, where)
    elif not options.lenient:
        check_schema(schema, where)
    return {"type": "json_schema", "schema": schema}, Constraint(
        "json", told, enforced(schema) if inner.get("strict") else schema
    )


def constraint(force: Force, of_format: Constraint | None) -> Constraint | None:
    """What the reply is held to: the calls if tools are in force, else the response format."""
    if not force.tools:
        return of_format
    keys = ("name", "description", "parameters", "strict")
    tools = [
        {"type": "function", "function": {key: tool["function"][key] for key in keys}}
        for tool in force.tools
    ]
    return Constraint("tool_call" if force.choice == "auto" else "tool_call_required", tools)
