"""What whoever serves requests may choose about reading them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dsv4.protocol.constants import Revision


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """Choices of a server, or of the flags of a command.

    `models`: accepted names, None for any. `thinking` and `effort`, if given, win over what the
    request says; `default_thinking` and "high" stand where it says nothing. `lenient` lets pass
    what can still be written down: results without calls and calls without results, repeated ids,
    misplaced prefixes, names and schemas of tools that are none, fields that are lost.
    `need_reasoning` refuses histories whose reasoning was not passed back. `think_then_call`: a
    choice that forces a call holds in thinking mode too, after the reasoning, and Anthropic's `any`
    is such a choice; DeepSeek's API refuses the one and takes the other for `auto`.
    `system_in_place`: a system message behind the first turn stays there as a reminder, as Messages
    has it, and spoils no known prefix; DeepSeek's API puts those of Chat and Responses first.
    """

    models: Collection[str] | None = None
    revision: Revision = "2026-04"
    thinking: bool | None = None
    effort: str | None = None
    default_thinking: bool = True
    lenient: bool = False
    need_reasoning: bool = False
    think_then_call: bool = False
    system_in_place: bool = False
    drop_web_search: bool | None = None  # None: as the API does, Responses drops, Messages refuses
    max_tokens_thinking: int = 393_216
    max_tokens_chat: int = 393_216


DEFAULTS = RequestOptions()
