"""`dsv4 serve --backend URL`: which model is served elsewhere; its weights are not read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsv4.cli.loading import checkpoint_folder, has_no_weights
from dsv4.cli.streams import note

if TYPE_CHECKING:
    from dsv4.protocol.constants import Revision
    from dsv4.remote.engine import RemoteEngine
    from dsv4.tokenizer import Tokenizer

RELEASED = "flash"  # which has the tokenizer and the context of every released model
KEY = "DSV4_BACKEND_KEY"
FIRST = 10.0  # seconds that the backends have for a first answer


@dataclass(frozen=True)
class Known:
    """What is known of a model without its weights: `name` is its folder's, if it has one."""

    tokenizer: Tokenizer
    revision: Revision
    context: int
    name: str | None


def known(checkpoint: str, revision: str | None) -> Known:
    """Of a preset, which has the released tokenizer, or of a folder with a tokenizer.json, whose
    config.json and encoder are asked where they are there. Raises ValueError.
    """
    from dsv4.checkpoint.encoder import encoder_revision
    from dsv4.checkpoint.revision import effort_revision, of_draft
    from dsv4.config import Config
    from dsv4.tokenizer import Tokenizer

    if has_no_weights(checkpoint):
        config = Config.from_preset(checkpoint)
        tokenizer = Tokenizer.deepseek()
        found = effort_revision(config, revision)
        return Known(tokenizer, found, config.max_position_embeddings, None)
    folder = checkpoint_folder(checkpoint)
    tokenizer = Tokenizer.load(folder)
    name = folder.resolve().name
    if not (folder / "config.json").exists():
        found = effort_revision(Config.from_preset(RELEASED), revision or encoder_revision(folder))
        return Known(tokenizer, found, 1 << 20, name)
    config = Config.load(folder)
    asked = revision or encoder_revision(folder) or config.effort_revision
    return Known(
        tokenizer,
        effort_revision(config, asked or of_draft(config.is_dspark)),
        config.max_position_embeddings,
        name,
    )


def addresses(urls: Sequence[str]) -> list[str]:
    """Where the backends are. Raises ValueError."""
    from dsv4.remote.http import base_url

    found = [base_url(url, "--backend") for url in urls]
    if len(set(found)) < len(found):
        raise ValueError("--backend names one server twice: two would be taken for one")
    return found


def remote(urls: Sequence[str], key: str | None, model: Known, queue: int) -> RemoteEngine:
    """The engine that is made of the backends; who of them does not answer yet is said."""
    from dsv4.remote.engine import RemoteEngine

    key = key or os.environ.get(KEY) or None
    engine = RemoteEngine(urls, model.tokenizer, context=model.context, key=key, queue=queue)
    engine.wait(FIRST)
    for backend in engine.backends():
        if not backend.live:
            note(f"dsv4: {backend.why}; it is asked again and again")
    return engine
