"""Messages (Anthropic): one open block at a time, and the message that the blocks add up to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dsv4.protocol.deltas import CallArguments, CallEnd, CallStart, Content, Reasoning
from dsv4.protocol.requests import Request
from dsv4.server.chat import merged
from dsv4.server.errors import ApiError
from dsv4.server.exchange import Exchange
from dsv4.server.reply import Update
from dsv4.server.writer import Event

_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessagesWriter:
    """Writes the one reply of an exchange."""

    def __init__(self, exchange: Exchange, request: Request):
        self._exchange, self._request = exchange, request
        self._blocks: list[dict[str, Any]] = []
        self._open = False
        self._pinged = False
        self._json = ""  # of the call that is open
        self._stop: tuple[str, str | None] = ("end_turn", None)

    last = b""

    def start(self) -> Iterator[Event]:
        """The empty message; in thinking mode its first block."""
        message = self._message() | {"usage": self._exchange.counts.anthropic(0)}
        yield "message_start", {"type": "message_start", "message": message}
        if self._request.starts == "reasoning":
            yield from self._begin({"type": "thinking", "thinking": "", "signature": ""})

    def add(self, number: int, update: Update, over: bool) -> Iterator[Event]:
        """Deltas of blocks, and where they begin and end."""
        for delta in merged(update.deltas):
            if isinstance(delta, Reasoning):
                yield from self._text("thinking", "thinking_delta", delta.text)
            elif isinstance(delta, Content):
                yield from self._text("text", "text_delta", delta.text)
            elif isinstance(delta, CallStart):
                yield from self._end()
                call = self._exchange.replies[number].call_ids[delta.call]
                self._json = ""
                block = {"type": "tool_use", "id": call, "name": delta.name, "input": {}}
                yield from self._begin(block)
            elif isinstance(delta, CallArguments):
                self._json += delta.text
                yield self._delta({"type": "input_json_delta", "partial_json": delta.text})
            elif isinstance(delta, CallEnd):
                yield from self._end()
        if over:
            yield from self._end()
            reply = self._exchange.replies[number]
            self._stop = (_STOPS[reply.finish_reason], None)
            if reply.stopped_by is not None:
                self._stop = ("stop_sequence", reply.stopped_by)

    def finish(self) -> Iterator[Event]:
        """Why it stopped, and the usage."""
        reason, sequence = self._stop
        counts = self._exchange.counts
        yield (
            "message_delta",
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": sequence},
                "usage": counts.anthropic(),
                "dsv4": counts.own(),
            },
        )
        yield "message_stop", {"type": "message_stop"}

    def fail(self, error: ApiError) -> Iterator[Event]:
        """The API's own event."""
        yield "error", error.anthropic()

    def whole(self) -> Mapping[str, Any]:
        """The message."""
        reason, sequence = self._stop
        counts = self._exchange.counts
        return self._message() | {
            "content": self._blocks,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": counts.anthropic(),
            "dsv4": counts.own(),
        }

    def _message(self) -> dict[str, Any]:
        return {
            "id": self._exchange.id,
            "type": "message",
            "role": "assistant",
            "model": self._exchange.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _text(self, kind: str, delta: str, text: str) -> Iterator[Event]:
        if not self._open or self._blocks[-1]["type"] != kind:
            yield from self._end()
            empty = {"signature": ""} if kind == "thinking" else {}
            yield from self._begin({"type": kind, kind: ""} | empty)
        self._blocks[-1][kind] += text
        yield self._delta({"type": delta, kind: text})

    def _begin(self, block: dict[str, Any]) -> Iterator[Event]:
        index = len(self._blocks)
        self._blocks.append(dict(block))
        self._open = True
        start = {"type": "content_block_start", "index": index, "content_block": block}
        yield "content_block_start", start
        if not self._pinged:
            self._pinged = True
            yield "ping", {"type": "ping"}

    def _end(self) -> Iterator[Event]:
        """Close the open block: a thinking block is signed, a call's input is read."""
        if not self._open:
            return
        self._open = False
        block = self._blocks[-1]
        if block["type"] == "thinking":
            block["signature"] = self._exchange.id
            yield self._delta({"type": "signature_delta", "signature": self._exchange.id})
        elif block["type"] == "tool_use":
            block["input"] = _object(self._json)
        stop = {"type": "content_block_stop", "index": len(self._blocks) - 1}
        yield "content_block_stop", stop

    def _delta(self, delta: Mapping[str, Any]) -> Event:
        index = len(self._blocks) - 1
        data = {"type": "content_block_delta", "index": index, "delta": delta}
        return "content_block_delta", data


def _object(text: str) -> Any:
    """A call's input; of one that broke off, nothing."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {}
