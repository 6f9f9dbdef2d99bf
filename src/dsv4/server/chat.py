"""Chat Completions: chunks, and the message of each choice that they add up to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dsv4.protocol.deltas import CallArguments, CallStart, Content, Delta, Reasoning
from dsv4.protocol.requests import Request
from dsv4.server.errors import ApiError
from dsv4.server.exchange import Exchange
from dsv4.server.reply import Spoken, Update
from dsv4.server.scores import entry
from dsv4.server.writer import Event


class _Choice:
    """The message of one reply as it grows."""

    def __init__(self) -> None:
        self.reasoning, self.content = list[str](), list[str]()
        self.calls: list[dict[str, Any]] = []
        self.scores: dict[str, list[Any]] = {"content": [], "reasoning_content": []}
        self.finish_reason = ""

    def message(self, reasons: bool) -> dict[str, Any]:
        """In OpenAI's form, with DeepSeek's `reasoning_content` of a reply that `reasons`."""
        content, reasoning = "".join(self.content), "".join(self.reasoning)
        out: dict[str, Any] = {"role": "assistant", "content": content}
        if reasoning or reasons:
            out["reasoning_content"] = reasoning
        if self.calls:
            out["tool_calls"] = self.calls
        return out


class ChatWriter:
    """Writes the choices of one exchange."""

    def __init__(self, exchange: Exchange, request: Request):
        self._exchange, self._request = exchange, request
        self._choices = [_Choice() for _ in exchange.replies]
        self._thinking = request.thinks

    last = b"data: [DONE]\n\n"

    def start(self) -> Iterator[Event]:
        """The role, once for each choice."""
        for number in range(len(self._choices)):
            delta: dict[str, Any] = {"role": "assistant"}
            if not self._thinking:
                delta["content"] = ""
            elif self._request.starts == "content":
                delta |= {"content": "", "reasoning_content": None}
            else:
                delta |= {"content": None, "reasoning_content": ""}
            yield self._chunk(number, delta)

    def add(self, number: int, update: Update, over: bool) -> Iterator[Event]:
        """A chunk for each delta; neighbours of one kind are one."""
        choice = self._choices[number]
        scores = self._scores(update.spoken)
        for kind, texts in scores.items():
            choice.scores[kind] += texts
        for delta in merged(update.deltas):
            made = self._delta(choice, number, delta)
            if made is None:
                continue
            kind = "reasoning_content" if isinstance(delta, Reasoning) else "content"
            here = scores.pop(kind, []) if isinstance(delta, Reasoning | Content) else []
            yield self._chunk(number, made, {kind: here} if here else None)
        if over:
            choice.finish_reason = self._exchange.replies[number].finish_reason
            end: dict[str, Any] = {"content": ""}
            if self._thinking:
                end["reasoning_content"] = None
            yield self._chunk(number, end, finish=choice.finish_reason)

    def finish(self) -> Iterator[Event]:
        """Usage, if it was asked for, in a chunk without choices."""
        if self._request.include_usage:
            chunk = self._base("chat.completion.chunk") | {"choices": []}
            yield None, chunk | {"usage": self._usage(), "dsv4": self._exchange.counts.own()}

    def fail(self, error: ApiError) -> Iterator[Event]:
        """The error in place of a chunk."""
        yield None, error.openai()

    def whole(self) -> Mapping[str, Any]:
        """The `chat.completion`."""
        choices = [
            {
                "index": number,
                "message": choice.message(self._request.starts == "reasoning"),
                "logprobs": self._logprobs(choice.scores),
                "finish_reason": choice.finish_reason,
            }
            for number, choice in enumerate(self._choices)
        ]
        usage = {"usage": self._usage(), "dsv4": self._exchange.counts.own()}
        return self._base("chat.completion") | {"choices": choices} | usage

    def _delta(self, choice: _Choice, number: int, delta: Delta) -> dict[str, Any] | None:
        """What a chunk says of a delta; nothing of an end."""
        if isinstance(delta, Reasoning):
            choice.reasoning.append(delta.text)
            return {"content": None, "reasoning_content": delta.text}
        if isinstance(delta, Content):
            choice.content.append(delta.text)
            silent = {"reasoning_content": None} if self._thinking else {}
            return {"content": delta.text} | silent
        if isinstance(delta, CallStart):
            call = {
                "index": delta.call,
                "id": self._exchange.replies[number].call_ids[delta.call],
                "type": "function",
            }
            choice.calls.append(call | {"function": {"name": delta.name, "arguments": ""}})
            return {"tool_calls": [call | {"function": {"name": delta.name, "arguments": ""}}]}
        if isinstance(delta, CallArguments):
            choice.calls[delta.call]["function"]["arguments"] += delta.text
            function = {"arguments": delta.text}
            return {"tool_calls": [{"index": delta.call, "function": function}]}
        return None

    def _scores(self, spoken: list[Spoken]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {}
        for kind, token in spoken:
            name = "reasoning_content" if kind is Reasoning else "content"
            out.setdefault(name, []).append(entry(self._exchange.tokenizer, token))
        return out

    def _logprobs(self, scores: Mapping[str, list[Any]] | None) -> dict[str, Any] | None:
        if not self._request.asked.logprobs or scores is None:
            return None
        out: dict[str, Any] = {"content": scores.get("content", [])}
        if self._thinking:
            out["reasoning_content"] = scores.get("reasoning_content", [])
        return out

    def _chunk(
        self,
        number: int,
        delta: Mapping[str, Any],
        scores: Mapping[str, list[Any]] | None = None,
        finish: str | None = None,
    ) -> Event:
        choice = {
            "index": number,
            "delta": delta,
            "logprobs": self._logprobs(scores),
            "finish_reason": finish,
        }
        chunk = self._base("chat.completion.chunk") | {"choices": [choice]}
        if self._request.include_usage:
            chunk["usage"] = None
        elif finish is not None:
            chunk["dsv4"] = self._exchange.counts.own()
        return None, chunk

    def _base(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._exchange.id,
            "object": kind,
            "created": self._exchange.created,
            "model": self._exchange.model,
            "system_fingerprint": None,
        }

    def _usage(self) -> dict[str, Any]:
        return self._exchange.counts.openai(self._thinking)


def merged(deltas: list[Delta]) -> list[Delta]:
    """Neighbours of one kind as one: what waited for a slow reader is sent in one piece."""
    out: list[Delta] = []
    for delta in deltas:
        before = out[-1] if out else None
        if isinstance(delta, Reasoning) and isinstance(before, Reasoning):
            out[-1] = Reasoning(before.text + delta.text)
        elif isinstance(delta, Content) and isinstance(before, Content):
            out[-1] = Content(before.text + delta.text)
        elif (
            isinstance(delta, CallArguments)
            and isinstance(before, CallArguments)
            and before.call == delta.call
        ):
            out[-1] = CallArguments(delta.call, before.text + delta.text)
        else:
            out.append(delta)
    return out
