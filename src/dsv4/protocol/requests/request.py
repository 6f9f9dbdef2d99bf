"""A client's request: what to encode, how to sample, how to read the reply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dsv4.protocol.constants import EXTRACTED_URL, Revision, ThinkingMode
from dsv4.protocol.errors import RequestError
from dsv4.protocol.grammar import reply_grammar
from dsv4.protocol.quick import Quick, check_place, continuation
from dsv4.protocol.requests.prompt import Conversation, put_conversation
from dsv4.protocol.schema import bounded
from dsv4.protocol.segments import Segment, TextEncoder, Wire, to_ids
from dsv4.protocol.stream import StreamParser

Api = Literal["chat", "messages", "responses"]


@dataclass(frozen=True)
class Constraint:
    """What a reply must be: `kind` json, regex, tool_call or tool_call_required.

    `value` is the schema, the expression, or the tools; None for any JSON. `enforced`: the schema
    in place of `value`, of which a strict one has lost something.
    """

    kind: Literal["json", "regex", "tool_call", "tool_call_required"]
    value: Any = None
    enforced: Any = None

    def text(self) -> str:
        """The value as a backend of DeepSeek's gets it: compact JSON, or the expression."""
        if self.value is None or isinstance(self.value, str):
            return self.value or ""
        return json.dumps(self.value, ensure_ascii=False, separators=(",", ":"))

    def content(self) -> dict[str, Any] | None:
        """What the answer is held to, in xgrammar's words; None where calls are."""
        if self.kind == "regex":
            return {"type": "regex", "pattern": self.value}
        if self.kind != "json":
            return None
        given = self.value if self.enforced is None else self.enforced
        schema = {"type": "object"} if given is None else given
        return {"type": "json_schema", "json_schema": {} if schema is True else bounded(schema)}


@dataclass(frozen=True)
class Asked:
    """Sampling as the client asked for it, checked; None where nothing was said."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None


@dataclass(frozen=True)
class Request:
    """One request of any of the three APIs, checked, and ready to be encoded and served.

    `system` and `messages` are the conversation (system messages are in `system`, calls' arguments
    are objects); `tools` are those in force, `thinking_mode` and `effort` the encoder's words under
    `revision`. `temperature` and `top_p` are what to sample with, `asked` what the client said.
    `starts` says where the reply begins: in the reasoning, in the answer, or in a block of calls;
    `continues` that it goes on from a prefix, whose line ends count. `namespaces` leads from a
    tool's name to its namespace and name, `custom` holds the names of custom tools, `echo` what
    the Responses API repeats in its answer.
    """

    api: Api
    model: str | None
    system: str
    messages: list[dict[str, Any]]
    thinking_mode: ThinkingMode
    effort: str | None
    effort_word: str | None
    revision: Revision
    tools: list[dict[str, Any]]
    tool_choice: str | Mapping[str, Any]
    response_format: Mapping[str, Any] | None
    constraint: Constraint | None
    asked: Asked
    temperature: float
    top_p: float
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    continues: bool = False
    namespaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    custom: frozenset[str] = frozenset()
    echo: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str | None:
        """The quick instruction that the last message asks for in place of a reply."""
        return None if self.continues or not self.messages else self.messages[-1].get("task")

    @property
    def offers(self) -> list[dict[str, Any]]:
        """The tools that the reply may call: a quick instruction's answer calls none."""
        return [] if self.task else self.tools

    @property
    def starts(self) -> Literal["reasoning", "content", "calls"]:
        """Where the reply begins."""
        if self.task:
            return "content"
        if self.thinking_mode == "chat":
            return "content" if self.tool_choice in ("auto", "none") else "calls"
        return "content" if self.continues and self.messages[-1].get("content") else "reasoning"

    @property
    def thinks(self) -> bool:
        """Whether the reply may reason."""
        return self.thinking_mode == "thinking" and self.task is None

    @property
    def held(self) -> bool:
        """Whether `grammar` holds the reply to something."""
        return self.task is None and (bool(self.tools) or self.constraint is not None)

    @property
    def conversation(self) -> Conversation:
        """What is to be encoded."""
        return Conversation(
            self.system,
            self.messages,
            self.tools,
            self.response_format,
            self.thinking_mode == "thinking",
            self.effort,
            self.revision,
            self.continues,
            self.starts == "calls",
        )

    def prompt(self, **options: Any) -> str:
        """The prompt as text; `options` are those of `put_conversation`."""
        return self._wire(**options).text()

    def segments(self, **options: Any) -> list[Segment]:
        """The prompt with control tokens told from text that merely spells them."""
        trusted = (EXTRACTED_URL,) if self.task == "read_url" else ()
        return self._wire(**options).segments(trusted)

    def ids(self, tokenizer: TextEncoder, **options: Any) -> list[int]:
        """The prompt's token ids. Raises ProtocolError for half a surrogate pair."""
        return to_ids(self.segments(**options), tokenizer)

    def quick(self, task: str, **options: Any) -> Quick:
        """The prompt that asks for a quick instruction: see `quick_instruction`."""
        asks = continuation(task, self.thinking_mode)
        check_place(task, self.messages)
        return Quick(self.segments(**options, opened=False), asks)

    def _wire(self, **options: Any) -> Wire:
        wire = Wire()
        put_conversation(wire, self.conversation, **options)
        return wire

    def parser(self, mode: str = "tolerant") -> StreamParser:
        """A parser of the reply, at the place where the prompt left off."""
        begun = self.continues or self.task or self.starts == "calls"
        begins = self.starts if begun else "reply"
        choice = "none" if self.task else self.tool_choice
        return StreamParser(
            self.thinking_mode, mode, self.offers, choice, begins=begins, stop=self.stop
        )

    def check_calls(self, message: Mapping[str, Any]) -> None:
        """Raises RequestError for a call of a tool that is not in force."""
        names = [tool["function"]["name"] for tool in self.tools]
        for number, call in enumerate(message.get("tool_calls") or ()):
            name = call["function"]["name"]
            if name not in names:
                raise RequestError(
                    f"{name!r} is not in force: {', '.join(names) or 'no tool is'}",
                    f"tool_calls[{number}]",
                )

    def grammar(self, parallel_tool_calls: bool | None = None) -> dict[str, Any]:
        """The reply's grammar, for an engine that can hold it to one: see `reply_grammar`.

        Where nothing is said of parallel calls, a choice that forces a call asks for one: a model
        that is made to call cannot be relied on to stop.
        A prefix of the answer has begun what a format asks for, so the rest is held to nothing.
        """
        begun = self.continues and self.starts == "content"
        if parallel_tool_calls is None:
            parallel_tool_calls = self.tool_choice == "auto"
        return reply_grammar(
            self.tools,
            self.tool_choice,
            "thinking" if self.starts == "reasoning" else "chat",
            parallel_tool_calls,
            None if begun or self.constraint is None else self.constraint.content(),
            opened=self.starts == "calls",
        )

    def max_tokens(self, prompt_tokens: int, context: int) -> int:
        """How many tokens may be generated. Raises RequestError if the context is too short."""
        asked = self.asked.max_tokens
        if prompt_tokens + (asked or 0) > context:
            raise RequestError(
                f"This model's maximum context length is {context} tokens. However, you requested"
                f" {prompt_tokens + (asked or 0)} tokens ({prompt_tokens} in the messages,"
                f" {asked or 0} in the completion). Please reduce the length of the messages or"
                " completion."
            )
        if asked is not None:
            return asked
        thinking = 131_072 if self.effort_word in ("max", "ultra") else 65_536
        usual = thinking if self.thinks else 8_192
        return max(1, min(usual, context - prompt_tokens))
