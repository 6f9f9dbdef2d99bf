"""A subject as a model of Inspect's: `get_model("dsv4/x", memoize=False, subject=subject)`.

Inspect's messages and tools become those of Chat Completions, and our replies its outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolCall, ToolInfo

from dsv4.eval.agent.loop import LEAST, Limits
from dsv4.eval.subject import Ask, Reply, Subject, TooLongError
from dsv4.eval.task import hash_of, window_of

STOPS = {"stop": "stop", "length": "max_tokens", "tool_calls": "tool_calls"}
_number = count()


class Over(BaseException):
    """Ends a conversation whose solver would take any error as one of its own; `Replies.ended` says
    why."""


class UnfitError(ValueError):
    """What a task asks for, and a conversation of text cannot give."""


class JudgeError(UnfitError):
    """A scorer asks a model."""


class Replies:
    """What is said in one conversation: asked of a subject and kept, or played again."""

    def __init__(self) -> None:
        self.kept: list[tuple[Reply, str]] = []  # each with the hash of what was asked
        self.first: tuple[Any, ...] = ()  # messages and tools that were asked first
        self.ended: Exception | None = None
        self._subject: Subject | None = None
        self._ask = Ask("")
        self._forced = False
        self._left: list[tuple[Reply, str]] = []
        self._closed = ""

    @classmethod
    def of(cls, subject: Subject, first: Ask, forced: bool = False) -> Replies:
        """Asked of a subject at the effort, temperature and seed of `first`; a task's own
        temperature goes before that, unless it is `forced`."""
        out = cls()
        out._subject, out._ask, out._forced = subject, first, forced
        return out

    @classmethod
    def again(cls, replies: Sequence[Reply], hashes: Sequence[str]) -> Replies:
        """Those that were kept."""
        out = cls()
        out._left = list(zip(replies, hashes, strict=True))
        return out

    def close(self, why: str) -> None:
        """Nobody may ask from here on."""
        self._closed = why

    def next(self, messages: Any, tools: Any, config: GenerateConfig) -> Reply:
        """The reply to some messages. Raises UnfitError, SubjectError,
        TooLongError."""
        if self._closed:
            raise JudgeError(self._closed)
        self.first = self.first or (messages, tools)
        key = hash_of((messages, tools))
        if self._subject is None:
            reply, expected = self._left.pop(0) if self._left else (Reply(""), "")
            if key != expected:
                raise UnfitError("the replies were given to other questions: run the task anew")
        else:
            reply = self._asked(self._subject, messages, tools, config)
        self.kept.append((reply, key))
        return reply

    def _asked(self, subject: Subject, messages: Any, tools: Any, config: GenerateConfig) -> Reply:
        own = self._ask.temperature if self._forced else config.temperature
        asked = replace(
            self._ask,
            prompt=messages,
            tools=tools,
            temperature=self._ask.temperature if own is None else own,
            top_p=1.0 if config.top_p is None else config.top_p,
            seed=self._ask.seed + len(self.kept),
            stop=tuple(config.stop_seqs or ()),
        )
        limit = config.max_tokens
        if limit is None:
            several = tools or self.kept
            window = Limits().context if several else window_of(asked.effort)
            window = min(window, subject.context or window)
            limit = window - subject.count(asked)
            if limit < LEAST:
                raise TooLongError(f"the prompt leaves {limit} tokens of a window of {window:,}")
        return subject.generate(replace(asked, max_tokens=limit))


@modelapi(name="dsv4")
class SubjectAPI(ModelAPI):
    """Asks a `subject` at an `effort`, or the `replies` of one conversation."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 as Inspect calls it
        *,
        subject: Subject | None = None,
        replies: Replies | None = None,
        effort: str = "none",
        seed: int = 0,
    ):
        super().__init__(model_name, base_url, api_key, [], config)
        assert (subject is None) != (replies is None)
        self._subject, self._replies = subject, replies
        self._first = Ask("", effort, LEAST, seed=seed)
        self._key = f"dsv4-{next(_number)}"

    def connection_key(self) -> str:
        """See `ModelAPI`: a conversation waits for no other, which runs in another thread."""
        return self._key

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: Any,
        config: GenerateConfig,
    ) -> ModelOutput:
        """See `ModelAPI`. Raises Over in a conversation that is kept."""
        if self._replies is None:
            assert self._subject is not None
            return self._said(
                Replies.of(self._subject, self._first), input, tools, tool_choice, config
            )
        try:
            return self._said(self._replies, input, tools, tool_choice, config)
        except Exception as error:
            self._replies.ended = error
            raise Over from error

    def _said(
        self, replies: Replies, input: Any, tools: Any, choice: Any, config: GenerateConfig
    ) -> ModelOutput:
        if choice not in ("auto", "none"):
            raise UnfitError("the task forces a call of a tool, which no subject can be made to do")
        shown = [] if choice == "none" else [_schema(tool) for tool in tools]
        reply = replies.next(chat_of(input), shown, config)
        return _output(self.model_name, reply, len(input))


def chat_of(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as Chat Completions has them. Raises UnfitError for pictures and sounds."""
    return [_message(message) for message in messages]


def _message(message: ChatMessage) -> dict[str, Any]:
    parts = [] if isinstance(message.content, str) else message.content
    if any(part.type not in ("text", "reasoning") for part in parts):
        raise UnfitError("the task shows more than text")
    out: dict[str, Any] = {"role": message.role, "content": message.text}
    if isinstance(message, ChatMessageTool):
        failed = f"Error: {message.error.message}" if message.error else ""
        out |= {"tool_call_id": message.tool_call_id, "content": failed or message.text}
    if isinstance(message, ChatMessageAssistant):
        thought = "".join(part.reasoning for part in parts if isinstance(part, ContentReasoning))
        out |= {"reasoning_content": thought} if thought else {}
        if message.tool_calls:
            out["tool_calls"] = [_call(call) for call in message.tool_calls]
    return out


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function, "arguments": arguments},
    }


def _schema(tool: ToolInfo) -> dict[str, Any]:
    parameters = tool.parameters.model_dump(mode="json", exclude_none=True)
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _output(model: str, reply: Reply, length: int) -> ModelOutput:
    """A reply; its calls are named by where they stand, so that they are the same again."""
    content: Any = reply.text
    if reply.reasoning:
        content = [ContentReasoning(reasoning=reply.reasoning), ContentText(text=reply.text)]
    calls = [_tool_call(f"call_{length}_{number}", call) for number, call in enumerate(reply.calls)]
    message = ChatMessageAssistant(content=content, tool_calls=calls or None, model=model)
    stop: Any = STOPS.get(reply.finish_reason, "content_filter")
    usage = ModelUsage(
        input_tokens=reply.prompt_tokens,
        output_tokens=reply.completion_tokens,
        total_tokens=reply.prompt_tokens + reply.completion_tokens,
    )
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason=stop)],
        usage=usage,
    )


def _tool_call(name: str, call: Mapping[str, str]) -> ToolCall:
    try:
        arguments = json.loads(call["arguments"])
        if isinstance(arguments, dict):
            return ToolCall(id=name, function=call["name"], arguments=arguments)
        wrong = "they are no object"
    except ValueError as error:
        wrong = str(error)
    said = f"the arguments of {call['name']} cannot be read: {wrong}"
    return ToolCall(id=name, function=call["name"], arguments={}, parse_error=said)
