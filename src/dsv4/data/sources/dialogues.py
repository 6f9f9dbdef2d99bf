"""Conversations of two people, and of people with bots."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsv4.data.document import Document
from dsv4.data.errors import CorpusError
from dsv4.data.sources.archive import members

LEAST_TURNS = 4
_PRIVATE = re.compile(  # contacts: addresses, numbers, links, names that lead to a person
    r"@|https?:|www\.|\d{3}[-. ]?\d{4}|snap ?chat|instagram|facebook|phone number|"
    r"\bmy (?:full |last |first )?name(?:'?s| is)\b|\bi am called\b",
    re.IGNORECASE,
)
_RUDE = re.compile(
    r"\b(?:f+u+c+k\w*|sh+i+t\w*|bitch\w*|asshole\w*|cunt\w*|dick|nigg\w*|fag\w*|slut\w*|whore\w*|"
    r"porn\w*|sexy?|rape\w*|stupid|idiot|kill yourself|shut up)\b",
    re.IGNORECASE,
)


def chitchat(archive: Path) -> Iterator[Document]:
    """Dialogues of students: nothing of who wrote when; those with contacts, names or rude words
    are left out."""
    for _, data in members(archive, "chitchat_dataset/dataset.json"):
        for talk in json.loads(data).values():
            turns = [" ".join(m["text"].strip() for m in turn) for turn in talk["messages"]]
            turns = [" ".join(turn.split()) for turn in turns if turn.strip()]
            turns = turns[: len(turns) // 2 * 2]
            said = "\n".join(turns)
            if len(turns) >= LEAST_TURNS and not _PRIVATE.search(said) and not _RUDE.search(said):
                yield conversation(turns)


def chatterbot(archive: Path) -> Iterator[Document]:
    """English questions and answers; what a bot says of a maker or a body is left out."""
    try:
        import yaml
    except ImportError as error:
        raise CorpusError("chatterbot needs pyyaml: pip install 'dsv4[data]'") from error
    for name, data in members(archive, "chatterbot_corpus/data/english/*.yml"):
        if name.endswith(("botprofile.yml", "gossip.yml", "politics.yml", "psychology.yml")):
            continue
        for turns in yaml.safe_load(data)["conversations"]:
            words = [_text(turn) for turn in turns]
            words = words[: len(words) // 2 * 2]
            if words and all(words) and not _RUDE.search("\n".join(words)):
                yield conversation(words)


def _text(turn: Any) -> str:
    return turn.strip() if isinstance(turn, str) else ""


def conversation(turns: list[str]) -> Document:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    return Document(
        messages=tuple({"role": roles[n % 2], "content": text} for n, text in enumerate(turns))
    )
