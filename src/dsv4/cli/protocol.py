"""`dsv4 encode` turns a request into a prompt; `dsv4 parse` a completion into a message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from dsv4.cli.loading import checkpoint_folder, has_no_weights
from dsv4.cli.options import Revision, exclude
from dsv4.cli.streams import read_json, read_text, write
from dsv4.config import EFFORT_REVISIONS, Config

if TYPE_CHECKING:
    from dsv4.protocol import Request, RequestOptions, Segment
    from dsv4.tokenizer import Tokenizer

_PAIR = [str, bool]
Source = Annotated[str, typer.Argument(help="A file; - reads stdin.")]
Api = Annotated[
    str | None,
    typer.Option(help="chat, messages or responses; default: by what the request holds."),
]
Effort = Annotated[
    str | None,
    typer.Option(
        help="none (no thinking), minimal, low, medium, high, xhigh, max or ultra;"
        " default: the request's own, else high."
    ),
]
Lenient = Annotated[
    bool,
    typer.Option("--lenient", help="Encode what can be encoded of a request that is not sound."),
]


def encode(
    source: Source = "-",
    api: Api = None,
    effort: Effort = None,
    revision: Revision = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The model, by its folder or a preset's name: its effort texts count, and its "
            "tokens for --ids; default: those of V4-Flash of April."
        ),
    ] = None,
    lenient: Lenient = False,
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
        Path | None,
        typer.Option(help="tokenizer.json or its folder, in place of the checkpoint's."),
    ] = None,
) -> None:
    """Encode a request of Chat Completions, Messages or Responses, or a list of messages.

    The prompt is printed byte for byte, without a line end of its own.
    """
    from dsv4.protocol import to_ids as to_token_ids
    from dsv4.protocol.segments import unicode_text

    exclude(ids=ids, segments=segments)
    if tokenizer is not None and not ids:
        raise ValueError("--tokenizer is for --ids: give both, or neither")
    options = _options(effort, _revision(checkpoint, revision), lenient)
    request, since = _request(read_json(source), context, options, api)
    chosen = {"since": since, "bos": not no_bos, "keep_reasoning": keep_thinking}
    parts: list[Segment]
    if task is None:
        parts = request.segments(**chosen)
    else:
        parts = [p for part in request.quick(task, **chosen) for p in part]
    if ids:
        write(json.dumps(to_token_ids(parts, _tokenizer(checkpoint, tokenizer))) + "\n")
    elif segments:
        write(json.dumps(parts, ensure_ascii=False) + "\n")
    else:
        write(unicode_text("".join(part.text for part in parts)))


def parse(
    source: Source = "-",
    thinking: Annotated[
        bool,
        typer.Option(
            "--thinking",
            help="The prompt opened reasoning; default: as the request says, else this.",
        ),
    ] = False,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt opened the answer.")] = False,
    tolerant: Annotated[
        bool, typer.Option("--tolerant", help="Read departures from the layout, and list them.")
    ] = False,
    tools: Annotated[
        Path | None, typer.Option(help="JSON with the tools that were offered, or the request.")
    ] = None,
    ids: Annotated[
        bool,
        typer.Option(
            "--ids",
            help="The completion is JSON: token ids, or [text, is it a control token] pairs; what"
            " merely spells a control token is text.",
        ),
    ] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="tokenizer.json or its folder, for --ids; default: DeepSeek's."),
    ] = None,
) -> None:
    """Parse a completion into a message, printed as JSON.

    With --tolerant: {"message", "errors", "truncated"}.
    """
    from dsv4.protocol import StreamParser

    exclude(thinking=thinking, chat=chat)
    if tokenizer is not None and not ids:
        raise ValueError("--tokenizer is for --ids: give both, or neither")
    opened = thinking if thinking or chat else None
    given = None if tools is None else read_json(str(tools))
    mode = "tolerant" if tolerant else "strict"
    request = None if given is None else _asked(given, opened)
    if request is None:
        parser = StreamParser("chat" if chat else "thinking", mode)
    else:
        parser = request.parser(mode)
    for piece in _pieces(read_json(source), tokenizer) if ids else (read_text(source),):
        parser.feed(piece)
    result: dict[str, Any] = parser.finish()
    if request is not None and not tolerant:
        request.check_calls(result)
    if tolerant:
        errors = [error._asdict() for error in parser.errors]
        result = {"message": result, "errors": errors, "truncated": parser.truncated}
    write(json.dumps(result, ensure_ascii=False, indent=2) + "\n")


def _pieces(given: Any, file: Path | None) -> list[tuple[str, bool]]:
    """The pieces of a completion that is given as ids, or as pairs."""
    from dsv4.protocol.segments import unicode_text

    items: list[Any] = given if isinstance(given, list) else [None]
    if all(type(item) is int for item in items):
        words = _tokenizer(None, file)
        unknown = next((item for item in items if not 0 <= item <= words.largest_id), None)
        if unknown is not None:
            raise ValueError(f"id {unknown}: this tokenizer's go from 0 to {words.largest_id}")
        stream = words.stream()
        pieces = [piece for item in items for piece in stream.pieces(item)]
        return [*pieces, (stream.finish(), False)]
    pairs = [item for item in items if isinstance(item, list) and list(map(type, item)) == _PAIR]
    if len(pairs) < len(items):
        raise ValueError("the JSON must be a list of ids, or of [text, true or false] pairs")
    return [(unicode_text(text), control) for text, control in pairs]


def _revision(checkpoint: str | None, flag: str | None) -> str:
    """That of the effort texts: the flag's, else that of the checkpoint, where one is named."""
    if checkpoint is None:
        return flag or EFFORT_REVISIONS[0]
    from dsv4.checkpoint.revision import effort_revision

    if has_no_weights(checkpoint):
        return effort_revision(Config.from_preset(checkpoint), flag)
    return effort_revision(checkpoint_folder(checkpoint), flag)


def _tokenizer(checkpoint: str | None, file: Path | None) -> Tokenizer:
    """The tokenizer that is named, else the checkpoint's, else DeepSeek's."""
    from dsv4.tokenizer import Tokenizer

    if file is None and (checkpoint is None or has_no_weights(checkpoint)):
        return Tokenizer.deepseek()
    return Tokenizer.load(file or checkpoint_folder(checkpoint or ""))


def _options(effort: str | None, revision: str, lenient: bool) -> RequestOptions:
    from dsv4.protocol import RequestOptions, resolve_effort
    from dsv4.protocol.constants import Revision as Known

    resolve_effort(effort, revision)  # refuses words that are not known
    return RequestOptions(effort=effort, revision=cast(Known, revision), lenient=lenient)


def _request(
    body: Any, context: Path | None, options: RequestOptions, api: str | None
) -> tuple[Request, int]:
    """The request, with what was encoded before in front; and how many messages that was."""
    from dataclasses import replace

    from dsv4.protocol import RequestError, read_request

    if context is None:
        return read_request(body, options, api), 0
    before = read_json(str(context))
    lenient = replace(options, lenient=True)
    past = read_request(before, lenient, api)
    if past.api == "responses":
        raise RequestError("a context is a list of messages, or an object with them", "input")
    body = body if isinstance(body, dict) else {"messages": body}
    if not isinstance(body.get("messages"), list):
        raise RequestError("must be a list", "messages")
    rest = before if isinstance(before, dict) else {"messages": before}
    whole = read_request(
        {**rest, **body, "messages": [*rest["messages"], *body["messages"]]}, options, past.api
    )
    if whole.system != past.system and whole.system:
        raise RequestError(
            "a system message stands before the context: encode the whole conversation", "messages"
        )
    return whole, len(past.messages)


def _asked(given: Any, thinking: bool | None) -> Request:
    """The request that was answered; of tools alone, one that says nothing."""
    from dsv4.protocol import RequestOptions, read_request

    body = {"tools": given} if isinstance(given, list) else given
    if not isinstance(body, dict) or not (body.keys() & {"messages", "input", "tools"}):
        raise ValueError('the JSON must be a list of tools, or an object with "tools"')
    if "messages" not in body and "input" not in body:
        body = {"messages": [], **body}
    return read_request(body, RequestOptions(thinking=thinking, lenient=True))
