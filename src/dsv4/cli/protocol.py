"""`dsv4 encode` turns a conversation into a prompt; `dsv4 parse` a completion into a message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dsv4.cli.errors import one_line_errors
from dsv4.cli.streams import read_json, read_text, write

Source = Annotated[str, typer.Argument(help="A file; - reads stdin.")]
Revision = Annotated[str, typer.Option(help="Of the effort prefixes: 2026-04 or 2026-07.")]
Effort = Annotated[
    str, typer.Option(help="none (no thinking), minimal, low, medium, high, xhigh, max or ultra.")
]


def encode(
    source: Source = "-",
    effort: Effort = "high",
    revision: Revision = "2026-04",
    keep_thinking: Annotated[
        bool, typer.Option("--keep-thinking", help="Keep the reasoning of earlier turns.")
    ] = False,
    no_bos: Annotated[bool, typer.Option("--no-bos", help="Leave the first token out.")] = False,
    context: Annotated[
        Path | None, typer.Option(help="Messages that were encoded before; print what is new.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Ask for a quick instruction instead.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Print token ids, as JSON.")] = False,
    segments: Annotated[
        bool, typer.Option("--segments", help="Print [text, is it a control token] pairs, as JSON.")
    ] = False,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json or its folder; default: DeepSeek's.")
    ] = None,
) -> None:
    """Encode a conversation: JSON with a list of messages, or a chat-completions request.

    The prompt is printed byte for byte, without a line end of its own.
    """
    from dsv4.protocol import encode_segments, from_openai, quick_instruction, resolve_effort
    from dsv4.protocol import to_ids as to_token_ids

    with one_line_errors():
        request = _request(read_json(source))
        messages = from_openai(*request)
        mode, reasoning_effort = resolve_effort(effort, revision)
        options: dict[str, Any] = {
            "context": None if context is None else from_openai(*_request(read_json(str(context)))),
            "drop_thinking": not keep_thinking,
            "add_default_bos_token": not no_bos,
            "reasoning_effort": reasoning_effort,
            "revision": revision,
        }
        if task is None:
            parts = encode_segments(messages, mode, **options)
        else:
            parts = [p for part in quick_instruction(messages, task, mode, **options) for p in part]
        if ids:
            from dsv4.tokenizer import Tokenizer

            chosen = Tokenizer.deepseek() if tokenizer is None else Tokenizer.load(tokenizer)
            write(json.dumps(to_token_ids(parts, chosen)) + "\n")
        elif segments:
            write(json.dumps(parts, ensure_ascii=False) + "\n")
        else:
            write("".join(part.text for part in parts))


def parse(
    source: Source = "-",
    thinking: Annotated[
        bool, typer.Option("--thinking/--chat", help="How the prompt opened the reply.")
    ] = True,
    tolerant: Annotated[
        bool, typer.Option("--tolerant", help="Read departures from the layout, and list them.")
    ] = False,
    tools: Annotated[
        Path | None, typer.Option(help="JSON with the tools that were offered, or the request.")
    ] = None,
) -> None:
    """Parse a completion into a message, printed as JSON.

    With --tolerant: {"message", "errors", "truncated"}.
    """
    from dsv4.protocol import StreamParser

    with one_line_errors():
        offered = None if tools is None else _tools(read_json(str(tools)))
        mode = "tolerant" if tolerant else "strict"
        parser = StreamParser("thinking" if thinking else "chat", mode, offered)
        parser.feed(read_text(source))
        result: dict[str, Any] = parser.finish()
        if tolerant:
            errors = [error._asdict() for error in parser.errors]
            result = {"message": result, "errors": errors, "truncated": parser.truncated}
        write(json.dumps(result, ensure_ascii=False, indent=2) + "\n")


def _request(value: Any) -> tuple[Any, Any, Any]:
    """Messages, tools and response format of a request, or of a bare list of messages."""
    if isinstance(value, list):
        return value, None, None
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise ValueError('the JSON must be a list of messages, or an object with "messages"')
    return value["messages"], value.get("tools"), value.get("response_format")


def _tools(value: Any) -> list[Any]:
    tools = value.get("tools") if isinstance(value, dict) else value
    if not isinstance(tools, list):
        raise ValueError('the JSON must be a list of tools, or an object with "tools"')
    return tools
