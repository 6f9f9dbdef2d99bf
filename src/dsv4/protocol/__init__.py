"""The prompt protocol: conversations to wire text and completions back; imports no torch."""

from dsv4.protocol.encode import encode_ids, encode_messages, encode_segments
from dsv4.protocol.errors import ProtocolError
from dsv4.protocol.stream import StreamParser, parse_message, parse_message_from_completion_text

__all__ = [
    "ProtocolError",
    "StreamParser",
    "encode_ids",
    "encode_messages",
    "encode_segments",
    "parse_message",
    "parse_message_from_completion_text",
]
