"""A prompt that cannot fit is refused before it is encoded: tokens ≥ bytes / longest token."""

from __future__ import annotations

from dsv4.protocol.errors import RequestError
from dsv4.tokenizer import Tokenizer


class Within:
    """Encodes the texts of one prompt for a `context`; raises RequestError as soon as they are sure
    to have more tokens, or have more than twice as many: up to that an exact count can be told.
    """

    def __init__(self, tokenizer: Tokenizer, context: int):
        self._tokenizer, self._context, self._count = tokenizer, context, 0

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """As `Tokenizer.encode`."""
        least = self._count + len(text) // self._tokenizer.longest  # a character is a byte at least
        if least > self._context:
            raise self._too_long(least)
        ids: list[int] = []
        for part in self._tokenizer.parts(text, special=special):
            ids += part
            self._count += len(part)
            if self._count > 2 * self._context:
                raise self._too_long(self._count)
        return ids

    def token_id(self, token: str) -> int:
        """As `Tokenizer.token_id`."""
        self._count += 1
        return self._tokenizer.token_id(token)

    def _too_long(self, least: int) -> RequestError:
        return RequestError(
            f"This model's maximum context length is {self._context} tokens. However, you requested"
            f" at least {least} tokens. Please reduce the length of the messages or completion."
        )
