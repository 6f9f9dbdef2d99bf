"""The grammar of a reply, so that an engine can make malformed calls impossible.

reply = [reasoning </think>] content [block];  block = \\n\\n <tool_calls> \\n call+ </tool_calls>

Written as a structural tag of xgrammar (a JSON object; nothing is imported here). Parameters come
in the order of the schema, each at most once, the required ones always: what the grammar accepts,
strict parsing reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsv4.protocol.constants import CONTROL, DSML, END_THINK, EOS
from dsv4.protocol.errors import ProtocolError
from dsv4.protocol.markup import BLOCK_END_TAG, BLOCK_TAG, INVOKE_END_TAG, PARAMETER_END_TAG
from dsv4.protocol.messages import check_tools, properties_of
from dsv4.protocol.schema import bounded, definitions_of, sequence_of, types_of

Format = dict[str, Any]
Functions = dict[int, Mapping[str, Any]]  # by their index among the tools
_NO_VALUE = [DSML, EOS]  # what no value may contain


def reply_grammar(
    tools: Sequence[Mapping[str, Any]],
    tool_choice: str | Mapping[str, Any] = "auto",
    thinking_mode: str = "chat",
    parallel_tool_calls: bool = True,
    content: Format | None = None,
    opened: bool = False,
) -> Format:
    """A structural tag for `xgrammar.Grammar.from_structural_tag`.

    `tools` and `tool_choice` are OpenAI's: "none", "auto", "required" or {"type": "function",
    "function": {"name": …}}. The prompt opened the reply, so it begins inside the reasoning in
    thinking mode; `opened`: it begins inside the block of calls, as after a choice that requires
    one. `content`: what an answer without tools is held to, a format of xgrammar. Raises
    ProtocolError for a choice that the tools do not have.
    """
    if thinking_mode not in ("chat", "thinking"):
        raise ProtocolError(f"thinking_mode = {thinking_mode!r}: must be chat or thinking")
    chosen, must = _choose(dict(enumerate(check_tools(tools))), tool_choice)
    text = {"type": "any_text", "excludes": list(CONTROL)}
    parts = [text, _const(END_THINK)] if thinking_mode == "thinking" else []
    if must:
        parts.append(_block(chosen, parallel_tool_calls, opened))
    else:
        parts.append(text if content is None or chosen else content)
        if chosen:
            parts.append({"type": "optional", "content": _block(chosen, parallel_tool_calls)})
    return {"type": "structural_tag", "format": _sequence(parts)}


def _choose(functions: Functions, choice: str | Mapping[str, Any]) -> tuple[Functions, bool]:
    """The functions that may be called, and whether one must be."""
    if choice == "none":
        return {}, False
    if choice == "auto":
        return functions, False
    names = [function["name"] for function in functions.values()]
    if choice == "required":
        if not functions:
            raise ProtocolError("tool_choice = 'required': no tools were offered")
        return functions, True
    named = choice.get("function") if isinstance(choice, Mapping) else None
    name = named.get("name") if isinstance(named, Mapping) else None
    if name not in names:
        raise ProtocolError(
            f"tool_choice = {choice!r}: must be none, auto, required, or name one of {names}"
        )
    return {i: function for i, function in functions.items() if function["name"] == name}, True


def _block(functions: Functions, parallel: bool, opened: bool = False) -> Format:
    call = _either([_call(function, f"tools[{i}]") for i, function in functions.items()])
    calls = {"type": "plus", "content": call} if parallel else call
    start = [] if opened else [_const(f"\n\n{BLOCK_TAG}\n")]
    return _sequence([*start, calls, _const(BLOCK_END_TAG)])


def _call(function: Mapping[str, Any], where: str) -> Format:
    head = _const(f'<{DSML}invoke name="{function["name"]}">\n')
    try:
        held = function.get("enforced") or function.get("parameters") or {}
        parameters = _parameters(held)
    except ProtocolError as error:
        raise ProtocolError(f"{where}.function.parameters.{error}") from error
    return _sequence([head, parameters, _const(f"{INVOKE_END_TAG}\n")])


def _parameters(schema: Mapping[str, Any]) -> Format:
    properties = properties_of({"parameters": schema})
    if not properties and schema.get("additionalProperties") is not False and schema:
        anything = _sequence([_const(f'<{DSML}parameter name="'), _regex('[^"<>\\n]+'), _any()])
        return _either([_const("\n"), {"type": "plus", "content": anything}])
    definitions = definitions_of(schema)
    required = sequence_of(schema, "required")
    forms = [
        (_parameter(key, value, definitions), key in required) for key, value in properties.items()
    ]
    if any(needed for _, needed in forms):
        return _sequence([form if needed else _optional(form) for form, needed in forms])
    starts = [  # none is required: one of them comes first, or an empty line stands for none
        _sequence([form, *(_optional(later) for later, _ in forms[number + 1 :])])
        for number, (form, _) in enumerate(forms)
    ]
    return _either([*starts, _const("\n")])


def _parameter(key: str, schema: Any, definitions: Mapping[str, Any]) -> Format:
    if '"' in key:
        raise ProtocolError(f"properties: {key!r}: a name cannot hold a quote")
    try:
        value = _value(schema, definitions)
    except ProtocolError as error:
        raise ProtocolError(f"properties.{key}.{error}") from error
    return _sequence([_const(f'<{DSML}parameter name="{key}'), value])


def _value(schema: Any, definitions: Mapping[str, Any]) -> Format:
    """From the quote that ends the name to the end tag: raw text if a string, else JSON."""
    schema = schema if isinstance(schema, Mapping) else {}
    options: list[Format] = []
    values = [schema["const"]] if "const" in schema else sequence_of(schema, "enum")
    if values:
        texts = [value for value in values if isinstance(value, str)]
        others = [value for value in values if not isinstance(value, str)]
        if texts:
            options.append(_typed(True, _either([_const(text) for text in texts])))
        if others:
            options.append(_typed(False, _json({"enum": others})))
        return _either(options)
    types = types_of(schema, definitions)
    if "string" in types:
        options.append(_typed(True, {"type": "any_text", "excludes": _NO_VALUE}))
    rest = [name for name in types if name != "string"]
    if rest:
        options.append(
            _typed(False, _json({**_without_string(schema, rest, definitions), **definitions}))
        )
    return _either(options)


def _without_string(
    schema: Mapping[str, Any], types: list[str], definitions: Mapping[str, Any]
) -> dict[str, Any]:
    """The schema less its strings, which are written raw."""
    out = dict(schema)
    for key in ("anyOf", "oneOf"):
        if key in out:
            parts = sequence_of(out, key)
            out[key] = [part for part in parts if types_of(part, definitions) != ["string"]]
            return out
    if "$ref" not in out:
        out["type"] = types[0] if len(types) == 1 else types
    return out


def _typed(string: bool, content: Format) -> Format:
    head = _const(f'" string="{"true" if string else "false"}">')
    return _sequence([head, content, _const(f"{PARAMETER_END_TAG}\n")])


def _any() -> Format:
    return _value({}, {})


def _json(schema: dict[str, Any]) -> Format:
    return {"type": "json_schema", "json_schema": bounded(schema), "excludes": _NO_VALUE}


def _const(text: str) -> Format:
    return {"type": "const_string", "value": text}


def _regex(pattern: str) -> Format:
    return {"type": "regex", "pattern": pattern}


def _optional(content: Format) -> Format:
    return {"type": "optional", "content": content}


def _sequence(elements: list[Format]) -> Format:
    return elements[0] if len(elements) == 1 else {"type": "sequence", "elements": elements}


def _either(elements: list[Format]) -> Format:
    return elements[0] if len(elements) == 1 else {"type": "or", "elements": elements}
