"""A request of any of the three APIs: which one it is, by what only that one has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests.anthropic import from_anthropic
from dsv4.protocol.requests.chat import from_openai
from dsv4.protocol.requests.options import DEFAULTS, RequestOptions
from dsv4.protocol.requests.request import Request
from dsv4.protocol.requests.responses import from_responses

APIS: dict[str, Callable[[Any, RequestOptions], Request]] = {
    "chat": from_openai,
    "messages": from_anthropic,
    "responses": from_responses,
}
_MESSAGES = ("system", "stop_sequences", "output_config")
_BLOCKS = ("tool_use", "tool_result", "thinking", "redacted_thinking")


def read_request(body: Any, options: RequestOptions = DEFAULTS, api: str | None = None) -> Request:
    """A request's body, or a bare list of messages; `api`: chat, messages or responses.

    Without `api` it is told by fields that only one of them has. Raises RequestError.
    """
    if api is not None and api not in APIS:
        raise RequestError(f"api = {api!r}: must be one of {', '.join(APIS)}")
    if not isinstance(body, list | tuple | Mapping):
        raise RequestError('the JSON must be a list of messages, or an object with "messages"')
    return APIS[api or api_of(body)](body, options)


def api_of(body: Any) -> str:
    """chat, messages or responses."""
    messages = body.get("messages") if isinstance(body, Mapping) else body
    if isinstance(body, Mapping):
        if "messages" not in body and ("input" in body or "instructions" in body):
            return "responses"
        offered = any("input_schema" in tool for tool in _objects(body.get("tools")))
        if offered or any(key in body for key in _MESSAGES):
            return "messages"
    blocks = (block for message in _objects(messages) for block in _objects(message.get("content")))
    return "messages" if any(block.get("type") in _BLOCKS for block in blocks) else "chat"


def _objects(value: Any) -> Iterable[Mapping[str, Any]]:
    found = value if isinstance(value, list | tuple) else ()
    return (item for item in found if isinstance(item, Mapping))
