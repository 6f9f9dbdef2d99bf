"""A document and how it reads.

Prose:        BOS text EOS
Conversation: as the protocol writes it, EOS after every reply

Control tokens are placed here and by the protocol, never by a document's text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsv4.data.errors import DataError
from dsv4.protocol import ProtocolError, Segment, encode_segments, to_ids
from dsv4.protocol.constants import BOS, EOS
from dsv4.tokenizer import Tokenizer

VALIDATION_SHARE = 100  # one document in a hundred is held out, chosen by its hash


@dataclass(frozen=True)
class Document:
    """Prose, or a conversation of the protocol's `messages`.

    `key` decides whether it is held out, where that is not its own text: documents of one key are
    on one side. `where` is its place in a file, for errors.
    """

    text: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    key: str = ""
    where: str = ""

    @classmethod
    def exchange(cls, question: str, answer: str, key: str = "") -> Document:
        """One question and its answer, without reasoning."""
        user = {"role": "user", "content": question}
        return cls(messages=(user, {"role": "assistant", "content": answer}), key=key)

    def __bool__(self) -> bool:
        """Says something."""
        return bool(self.messages or self.text.strip())

    @property
    def thinking_mode(self) -> str:
        """The protocol's mode: "thinking" where some reply holds reasoning."""
        return "thinking" if any(m.get("reasoning_content") for m in self.messages) else "chat"

    def digest(self) -> bytes:
        """SHA-256 of the key, or of all that is said."""
        said = self.key or self.text + "".join(_said(message) for message in self.messages)
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()

    def segments(self) -> list[Segment]:
        """What the document reads as, control tokens apart. Raises DataError."""
        if not self.messages:
            return prose(Segment(self.text, False))
        try:
            return encode_segments(self.messages, self.thinking_mode)
        except ProtocolError as error:
            raise self.refused(error) from error

    def refused(self, error: Exception) -> DataError:
        """The error, with the document's place."""
        return DataError(f"{self.where}: {error}" if self.where else str(error))


def prose(*inner: Segment) -> list[Segment]:
    """BOS … EOS."""
    return [Segment(BOS, True), *inner, Segment(EOS, True)]


def ids_of(document: Document, segments: list[Segment], tokenizer: Tokenizer) -> list[int]:
    """The ids of a document's segments. Raises DataError for text that no tokenizer takes."""
    try:
        return to_ids(segments, tokenizer)
    except ProtocolError as error:
        raise document.refused(error) from error


def held_out(digest: bytes) -> bool:
    """Whether a document of this digest is kept for validation."""
    return int.from_bytes(digest[:4]) % VALIDATION_SHARE == 0


def text_bytes(segments: list[Segment]) -> int:
    """UTF-8 bytes of what stands between the control tokens."""
    return sum(len(text.encode()) for text, control in segments if not control)


def _said(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else repr(content)
