"""The prompt protocol: conversations to wire text and completions back; imports no torch."""

from dsv4.protocol.deltas import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Delta,
    End,
    ErrorRecord,
    Reasoning,
    message_of,
)
from dsv4.protocol.effort import resolve_effort
from dsv4.protocol.encode import encode_ids, encode_messages, encode_segments
from dsv4.protocol.errors import ProtocolError, RequestError
from dsv4.protocol.grammar import reply_grammar
from dsv4.protocol.messages import validate
from dsv4.protocol.quick import continuation, quick_instruction
from dsv4.protocol.requests import (
    Constraint,
    Request,
    RequestOptions,
    from_anthropic,
    from_openai,
    from_responses,
    read_request,
)
from dsv4.protocol.segments import Segment, to_ids
from dsv4.protocol.stream import StreamParser, parse_message, parse_message_from_completion_text

__all__ = [
    "CallArguments",
    "CallEnd",
    "CallStart",
    "Constraint",
    "Content",
    "Delta",
    "End",
    "ErrorRecord",
    "ProtocolError",
    "Reasoning",
    "Request",
    "RequestError",
    "RequestOptions",
    "Segment",
    "StreamParser",
    "continuation",
    "encode_ids",
    "encode_messages",
    "encode_segments",
    "from_anthropic",
    "from_openai",
    "from_responses",
    "message_of",
    "parse_message",
    "parse_message_from_completion_text",
    "quick_instruction",
    "read_request",
    "reply_grammar",
    "resolve_effort",
    "to_ids",
    "validate",
]
