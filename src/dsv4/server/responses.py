"""Responses: numbered events of items and their parts, and the response that they add up to."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from dsv4.protocol.deltas import CallArguments, CallEnd, CallStart, Content, Reasoning
from dsv4.protocol.requests import Request
from dsv4.server.chat import merged
from dsv4.server.errors import ApiError
from dsv4.server.exchange import Exchange
from dsv4.server.reply import Update
from dsv4.server.scores import entry
from dsv4.server.writer import Event


class ResponsesWriter:
    """Writes the one reply of an exchange; `given` is what the response repeats of the request."""

    def __init__(self, exchange: Exchange, request: Request, given: Mapping[str, Any]):
        self._exchange, self._request, self._given = exchange, request, given
        self._items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._json = ""  # of the call that is open
        self._scores: list[Any] = []  # of the message that is open
        self._status, self._reason = "in_progress", ""
        self._error: dict[str, Any] | None = None
        self._number = -1

    last = b""

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items so far."""
        return self._items

    def start(self) -> Iterator[Event]:
        """The response, empty; in thinking mode its first item."""
        yield self._event("response.created", response=self._response())
        yield self._event("response.in_progress", response=self._response())

    def add(self, number: int, update: Update, over: bool) -> Iterator[Event]:
        """Deltas of items, and where items and parts begin and end."""
        tokenizer = self._exchange.tokenizer
        scores = [entry(tokenizer, token) for kind, token in update.spoken if kind is Content]
        for delta in merged(update.deltas):
            if isinstance(delta, Reasoning):
                yield from self._say("reasoning", delta.text, [])
            elif isinstance(delta, Content):
                yield from self._say("message", delta.text, scores)
                scores = []
            elif isinstance(delta, CallStart):
                yield from self._end("completed", before_call=True)
                yield from self._call(delta, number)
            elif isinstance(delta, CallArguments):
                yield from self._arguments(delta.text)
            elif isinstance(delta, CallEnd):
                yield from self._end("completed")
        if over:
            reply = self._exchange.replies[number]
            cut = reply.finish_reason == "length"
            self._status = "incomplete" if cut else "completed"
            self._reason = "max_output_tokens" if cut else ""
            yield from self._end(self._status)

    def finish(self) -> Iterator[Event]:
        """The whole response."""
        yield self._event(f"response.{self._status}", response=self.whole())

    def fail(self, error: ApiError) -> Iterator[Event]:
        """The response with its error."""
        self._status = "failed"
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        self._error = {"code": code, "message": error.message}
        yield self._event("response.failed", response=self._response())

    def whole(self) -> Mapping[str, Any]:
        """The response."""
        counts = self._exchange.counts
        done = int(time.time()) if self._status == "completed" else None
        return self._response() | {
            "completed_at": done,
            "usage": counts.responses(),
            "dsv4": counts.own(),
        }

    # ---- items -------------------------------------------------------------------------------

    def _say(self, kind: str, text: str, scores: list[Any]) -> Iterator[Event]:
        if self._open is None or self._open["type"] != kind:
            yield from self._end("completed")
            yield from self._begin(kind)
        assert self._open is not None
        part = self._open["content"][0]
        part["text"] += text
        if kind == "reasoning":
            yield self._event("response.reasoning_text.delta", delta=text, **self._place())
            return
        part["logprobs"] += scores
        yield self._event(
            "response.output_text.delta", delta=text, logprobs=scores, **self._place()
        )

    def _begin(self, kind: str) -> Iterator[Event]:
        index = len(self._items)
        if kind == "reasoning":
            item: dict[str, Any] = {"type": kind, "id": self._id("rs"), "status": "in_progress"}
            item["content"] = []
            item |= {"summary": [], "encrypted_content": f"{self._exchange.id}-{index}"}
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            item = {"type": kind, "id": self._id("msg"), "status": "in_progress"}
            item |= {"role": "assistant", "phase": "final_answer", "content": []}
            part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
        yield from self._add(item)
        yield self._event("response.content_part.added", part=_copy(part), **self._place())
        item["content"] = [part]

    def _call(self, delta: CallStart, number: int) -> Iterator[Event]:
        call_id = self._exchange.replies[number].call_ids[delta.call]
        self._json = ""
        if delta.name in self._request.custom:
            item = {"type": "custom_tool_call", "id": self._id("ctc"), "status": "in_progress"}
            yield from self._add(item | {"call_id": call_id, "name": delta.name, "input": ""})
            return
        item = {"type": "function_call", "id": self._id("fc"), "status": "in_progress"}
        namespace, name = self._request.namespaces.get(delta.name, (None, delta.name))
        item |= {"call_id": call_id, "name": name, "arguments": ""}
        yield from self._add(item | ({"namespace": namespace} if namespace else {}))

    def _arguments(self, text: str) -> Iterator[Event]:
        assert self._open is not None
        self._json += text
        if self._open["type"] == "function_call":
            self._open["arguments"] += text
            place = self._place(part=False)
            yield self._event("response.function_call_arguments.delta", delta=text, **place)

    def _add(self, item: dict[str, Any]) -> Iterator[Event]:
        self._items.append(item)
        self._open = item
        index = len(self._items) - 1
        yield self._event("response.output_item.added", item=_copy(item), output_index=index)

    def _end(self, status: str, before_call: bool = False) -> Iterator[Event]:
        """Close the open item."""
        item = self._open
        if item is None:
            return
        item["status"] = status
        if item["type"] in ("reasoning", "message"):
            yield from self._end_part(item)
            if before_call and item["type"] == "message":
                item["phase"] = "commentary"
        elif item["type"] == "function_call":
            done = {"arguments": item["arguments"]} | self._place(part=False)
            yield self._event("response.function_call_arguments.done", **done)
        else:
            item["input"] = _input(self._json)
            place = self._place(part=False)
            if item["input"]:
                delta = item["input"]
                yield self._event("response.custom_tool_call_input.delta", delta=delta, **place)
            yield self._event("response.custom_tool_call_input.done", input=item["input"], **place)
        index = len(self._items) - 1
        yield self._event("response.output_item.done", item=_copy(item), output_index=index)
        self._open = None

    def _end_part(self, item: Mapping[str, Any]) -> Iterator[Event]:
        part = item["content"][0]
        place = self._place()
        if item["type"] == "reasoning":
            yield self._event("response.reasoning_text.done", text=part["text"], **place)
        else:
            scores = part["logprobs"]
            done = {"text": part["text"], "logprobs": scores} | place
            yield self._event("response.output_text.done", **done)
        yield self._event("response.content_part.done", part=_copy(part), **place)

    # ---- forms -------------------------------------------------------------------------------

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._exchange.id}_{len(self._items)}"

    def _place(self, part: bool = True) -> dict[str, Any]:
        assert self._open is not None
        where = {"item_id": self._open["id"], "output_index": len(self._items) - 1}
        return where | ({"content_index": 0} if part else {})

    def _event(self, kind: str, **data: Any) -> Event:
        self._number += 1
        return kind, {"type": kind, **data, "sequence_number": self._number}

    def _response(self) -> dict[str, Any]:
        incomplete = {"reason": self._reason} if self._status == "incomplete" else None
        return {
            "id": self._exchange.id,
            "object": "response",
            "created_at": self._exchange.created,
            "status": self._status,
            "background": False,
            "completed_at": None,
            "error": self._error,
            "incomplete_details": incomplete,
            "model": self._exchange.model,
            "output": _copy(self._items),
            "usage": None,
            **self._given,
        }


def given_of(body: Mapping[str, Any], request: Request, stored: bool) -> dict[str, Any]:
    """What a response repeats of its request, with what stands where that says nothing."""
    echo = request.echo
    text = echo.get("text") or {}
    reasoning = echo.get("reasoning") or {}
    parallel = body.get("parallel_tool_calls")
    return {
        "content_filters": None,
        "frequency_penalty": body.get("frequency_penalty") or 0.0,
        "instructions": echo.get("instructions"),
        "max_output_tokens": echo.get("max_output_tokens"),
        "max_tool_calls": None,
        "metadata": body.get("metadata") if isinstance(body.get("metadata"), dict) else {},
        "moderation": None,
        "parallel_tool_calls": parallel is not False,
        "presence_penalty": body.get("presence_penalty") or 0.0,
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": None,
        "prompt_cache_retention": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": None,
        "service_tier": "default",
        "store": stored,
        "temperature": echo.get("temperature", 1.0),
        "text": {
            "format": text.get("format") or {"type": "text"},
            "verbosity": text.get("verbosity"),
        },
        "tool_choice": echo.get("tool_choice", "auto"),
        "tools": [_filled(tool) for tool in echo.get("tools", [])],
        "top_logprobs": echo.get("top_logprobs", 0),
        "top_p": echo.get("top_p", 1.0),
        "truncation": "disabled",
        "user": echo.get("user"),
    }


def _filled(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool with the fields that a function may leave out."""
    if tool.get("type") != "function":
        return dict(tool)
    return {"description": None, "parameters": None, "strict": None} | dict(tool)


def _copy(value: Any) -> Any:
    """What was sent must not change with what comes."""
    return json.loads(json.dumps(value))


def _input(text: str) -> str:
    """The text of a custom tool's one parameter; of a call that broke off, nothing."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    given = value.get("input") if isinstance(value, dict) else None
    return given if isinstance(given, str) else text
