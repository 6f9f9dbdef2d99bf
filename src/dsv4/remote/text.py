"""Text of a server that tells no ids → ids, in which a spelled control token is one."""

from __future__ import annotations

from dsv4.tokenizer import Tokenizer


class TextIds:
    """Ids whose text is what was fed; the beginning of a control token waits for its end."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._controls = tokenizer.controls
        self._firsts = {control[0] for control in self._controls}
        self._rest = ""

    def feed(self, text: str) -> list[int]:
        """The ids that are certain after some more text."""
        text = self._rest + text
        held = self._held(text)
        self._rest = text[len(text) - held :]
        return self._tokenizer.encode(text[: len(text) - held], special=True)

    def finish(self) -> list[int]:
        """The rest."""
        rest, self._rest = self._rest, ""
        return self._tokenizer.encode(rest, special=True)

    def _held(self, text: str) -> int:
        """Letters at the end that may begin a control token."""
        longest = max(map(len, self._controls), default=1) - 1
        for count in range(min(longest, len(text)), 0, -1):
            end = text[len(text) - count :]
            if end[0] in self._firsts and any(
                control.startswith(end) for control in self._controls
            ):
                return count
        return 0
