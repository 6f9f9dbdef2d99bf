"""What whoever runs a server may choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4.protocol.constants import Revision


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Choices of a server. Sizes are bytes, times are seconds.

    `models`: the names that it answers to, its own first; `any_model` answers to every name.
    `hosts`: names beyond the loopback's that a request's Host may have, `*` for all; `origins`:
    sites whose pages may call it. `patience`: how long a client may leave a stream unread.
    """

    models: Sequence[str] = ("dsv4",)
    any_model: bool = False
    revision: Revision = "2026-04"
    thinking: bool = True  # where a request says nothing
    system_in_place: bool = False  # see RequestOptions
    api_key: str | None = None
    hosts: Sequence[str] = ()
    any_address: bool = False  # whether a Host may be any IP address
    origins: Sequence[str] = ()
    max_body: int = 32 << 20
    max_messages: int = 10_000
    max_choices: int = 64
    stored: int = 1_000  # responses that can be gone on from
    stored_bytes: int = 64 << 20
    folder: Path | None = None  # where spellings of replies outlive the server
    keep_alive: float = 10.0  # between two comments of a stream that waits
    patience: float = 60.0
