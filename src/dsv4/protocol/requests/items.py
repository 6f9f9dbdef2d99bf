"""The items of a Responses request as messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsv4.protocol.constants import UNSUPPORTED
from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests import fields
from dsv4.protocol.requests.history import object_of, parts_text, reminder
from dsv4.protocol.requests.namespaces import Declared
from dsv4.protocol.requests.options import RequestOptions
from dsv4.protocol.requests.tools import too_short

_TEXTS = ("input_text", "output_text")
_FIXED = {"input_image": UNSUPPORTED["image"], "input_file": UNSUPPORTED["file"]}
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_OUTPUTS = ("function_call_output", "custom_tool_call_output")


class Items:
    """Messages as they are gathered from items; `system` holds the system texts."""

    def __init__(self, options: RequestOptions, declared: Declared):
        self._options, self._declared = options, declared
        self.system: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self._open = False  # whether the last message is a reply that may go on
        self._calls: list[dict[str, Any]] = []  # that were made since, with their paths
        self._waiting: dict[str, str] = {}
        self._results: list[dict[str, Any]] = []
        self._ids: set[str] = set()
        self._answered: set[str] = set()

    def read(self, given: Any, instructions: str | None) -> None:
        """The whole input. Raises RequestError."""
        if instructions is not None:
            self.system.append(instructions)
        if given is None:
            if not instructions:
                raise RequestError("Either input or instructions must be provided", "input")
            return
        if isinstance(given, str):
            self.messages.append({"role": "user", "content": given})
            return
        if not isinstance(given, list | tuple):
            raise fields.wrong(given, "input", "text or a list of items")
        if not given and not self._options.lenient:
            raise RequestError("is empty: there must be an item", "input")
        for index, item in enumerate(given):
            self._item(item, f"input[{index}]")
        self._settle()

    def _item(self, item: Any, path: str) -> None:
        kind = fields.text(fields.mapping(item, path), "type", path)
        if kind is None and "role" not in item:
            raise fields.missing(path, "type")
        if kind in (None, "message"):
            self._message(item, path)
        elif kind in _CALLS:
            self._call(item, kind, path)
        elif kind in _OUTPUTS:
            self._output(item, path)
        elif kind == "reasoning":
            self._settle()
            self._reasoning(item, path)
        elif kind == "web_search_call":
            self._settle()

    def _message(self, item: Mapping[str, Any], path: str) -> None:
        self._settle()
        role = item.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            raise fields.wrong(role, f"{path}.role", "user, assistant, system or developer")
        content = item.get("content")
        if content is None and not self._options.lenient:
            raise fields.missing(path, "content")
        text = parts_text("" if content is None else content, f"{path}.content", _TEXTS, _FIXED)
        if role == "assistant":
            reply = self._reply()
            reply["content"] = "\n\n".join(filter(None, (reply["content"], text)))
            return
        self._open = False
        if role == "system" and self.messages and self._options.system_in_place:
            self.messages += reminder(text)
        elif role == "system":
            self.system.append(text)
        else:
            self.messages.append({"role": "user", "content": text})

    def _reply(self) -> dict[str, Any]:
        """The reply that goes on, or a new one."""
        if not self._open:
            self.messages.append({"role": "assistant", "content": "", "reasoning_content": ""})
            self._open = True
        return self.messages[-1]

    def _reasoning(self, item: Mapping[str, Any], path: str) -> None:
        parts = fields.items(item, "content", path)
        texts = []
        for number, part in enumerate(parts):
            where = f"{path}.content[{number}]"
            texts.append(fields.needed(fields.mapping(part, where), "text", where))
        text = "\n".join(texts)
        if not text:
            return
        if self._open and self.messages[-1]["content"]:
            self._open = False
        reply = self._reply()
        before = reply["reasoning_content"]
        reply["reasoning_content"] = f"{before}\n{text}" if before else text

    def _call(self, item: Mapping[str, Any], kind: str, path: str) -> None:
        call_id = fields.needed(item, "call_id", path)
        name = fields.needed(item, "name", path)
        if not name or '"' in name:
            raise fields.wrong(name, f"{path}.name", "text without a quote")
        namespace = fields.text(item, "namespace", path)
        given = fields.needed(item, _CALLS[kind], path)
        if not self._options.lenient:
            if not call_id:
                raise too_short(f"{path}.call_id")
            if call_id in self._ids:
                raise RequestError(f"{call_id!r} is the id of another call, too", f"{path}.call_id")
        self._ids.add(call_id)
        self._waiting[call_id] = path
        arguments = {"input": given} if kind == "custom_tool_call" else object_of(given)
        function = {"name": self._declared.name_of(name, namespace), "arguments": arguments}
        self._calls.append({"id": call_id, "function": function})

    def _output(self, item: Mapping[str, Any], path: str) -> None:
        call_id = fields.text(item, "call_id", path)
        if "output" not in item:
            raise fields.missing(path, "output")
        text = parts_text(item["output"], f"{path}.output", _TEXTS, _FIXED)
        result = {"role": "tool", "tool_call_id": call_id or "", "content": text}
        if call_id in self._waiting:
            del self._waiting[call_id]
            self._answered.add(call_id)
            self._results.append(result)
            if not self._waiting:
                self._flush()
            return
        if call_id and not self._options.lenient:
            why = "already has a result" if call_id in self._answered else "answers no call"
            raise RequestError(f"{call_id!r} {why}", f"{path}.call_id")
        self._settle()
        self._open = False
        self.messages.append(result)

    def _flush(self) -> None:
        """The calls that were gathered, and their results."""
        if not self._calls:
            return
        self._reply()["tool_calls"] = self._calls
        self.messages += self._results
        self._calls, self._results, self._open = [], [], False

    def _settle(self) -> None:
        """Something else comes: no call may be left waiting."""
        if self._waiting and not self._options.lenient:
            call_id, path = next(iter(self._waiting.items()))
            raise RequestError(f"the call {call_id!r} has no output", f"{path}.call_id")
        self._waiting.clear()
        self._flush()
