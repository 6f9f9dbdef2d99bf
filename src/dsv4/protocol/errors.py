"""What cannot be encoded or parsed."""

from __future__ import annotations


class ProtocolError(ValueError):
    """The message names the index and field of a conversation, or the place in a completion."""
