"""Stop strings: a text ends before the first of them, and none is part of it."""

from __future__ import annotations

from collections.abc import Sequence

from dsv4.protocol.deltas import Content, Delta


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """One string or several as a tuple. Raises ValueError for an empty or a wrong one."""
    words = (stop,) if isinstance(stop, str) else () if stop is None else stop
    if not isinstance(words, list | tuple) or not all(isinstance(w, str) and w for w in words):
        raise ValueError(f"stop = {stop!r}: must be text, or a list of texts, none empty")
    return tuple(words)


class StopMatcher:
    """Passes text through up to the first stop string, holding back what may begin one.

    The first is the one that ends first, and of those that end together the longest: so the way
    that the text is cut into pieces does not matter.
    """

    def __init__(self, stop: str | Sequence[str] | None):
        self.stop = stop_strings(stop)
        self.held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text that is certain to come before any stop string."""
        if self.matched is not None:
            return ""
        if not self.stop:
            return text
        self.held += text
        places = [
            (at + len(word), at, word) for word in self.stop if (at := self.held.find(word)) >= 0
        ]
        if places:
            _, at, self.matched = min(places)
            out, self.held = self.held[:at], ""
            return out
        keep = max(_overlap(self.held, word) for word in self.stop)
        cut = len(self.held) - keep
        out, self.held = self.held[:cut], self.held[cut:]
        return out

    def finish(self) -> str:
        """What was held back and turned out to begin nothing."""
        out, self.held = self.held, ""
        return out


class ContentStop:
    """Stop strings in a stream of deltas: looked for in runs of content, and in nothing else."""

    def __init__(self, stop: str | Sequence[str] | None):
        self._matcher = StopMatcher(stop)

    @property
    def matched(self) -> str | None:
        """The string that ended the answer."""
        return self._matcher.matched

    def push(self, deltas: list[Delta]) -> list[Delta]:
        """Those that are certain to come before any stop string."""
        if not self._matcher.stop:
            return deltas
        out: list[Delta] = []
        for delta in deltas:
            if self.matched is not None:
                break
            if isinstance(delta, Content):
                text = self._matcher.push(delta.text)
                out += [Content(text)] if text else []
            else:
                out += [*self.finish(), delta]
        return out

    def finish(self) -> list[Delta]:
        """What was held back and turned out to begin nothing."""
        text = self._matcher.finish()
        return [Content(text)] if text else []


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` that begins `word`."""
    return next(
        (n for n in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:n])), 0
    )
