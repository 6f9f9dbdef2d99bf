"""The words that callers use for effort, and the modes that the model knows."""

from __future__ import annotations

from dsv4.protocol.constants import EFFORT_PREFIXES, Revision, ThinkingMode
from dsv4.protocol.errors import ProtocolError

_WORDS: dict[str, dict[str, str]] = {
    "2026-04": {
        **dict.fromkeys(("minimal", "low", "medium", "high"), "high"),
        **dict.fromkeys(("xhigh", "max", "ultra"), "max"),
    },
    "2026-07": {
        **dict.fromkeys(("minimal", "low"), "low"),
        **dict.fromkeys(("medium", "high", "xhigh"), "high"),
        **dict.fromkeys(("max", "ultra"), "max"),
    },
}
EFFORT_WORDS = ("none", *_WORDS["2026-04"])


def resolve_effort(
    word: str | None, revision: Revision | str = "2026-04"
) -> tuple[ThinkingMode, str | None]:
    """(thinking_mode, reasoning_effort) of `encode_messages` for a caller's word.

    None: thinking, at the default effort; "none": no thinking. Raises ProtocolError for a word or
    revision that is not known.
    """
    if revision not in tuple(EFFORT_PREFIXES):
        raise ProtocolError(f"revision = {revision!r}: must be {' or '.join(EFFORT_PREFIXES)}")
    if word is None:
        return "thinking", None
    if word == "none":
        return "chat", None
    if word not in tuple(_WORDS[revision]):
        raise ProtocolError(f"effort = {word!r}: must be one of {', '.join(EFFORT_WORDS)}")
    return "thinking", _WORDS[revision][word]
