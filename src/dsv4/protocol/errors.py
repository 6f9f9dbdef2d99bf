"""What cannot be encoded or parsed."""

from __future__ import annotations


class ProtocolError(ValueError):
    """The message names the index and field of a conversation, or the place in a completion."""


class RequestError(ProtocolError):
    """A request that a client must mend: `path` is the field, `reason` what is wrong with it."""

    def __init__(self, reason: str, path: str = ""):
        self.reason, self.path = reason, path
        named = not path or reason.startswith(path) or f"'{path}'" in reason
        super().__init__(reason if named else f"{path}: {reason}")
