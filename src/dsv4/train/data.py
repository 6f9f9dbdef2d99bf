"""Packed batches as tensors: rows of whole documents, best fit (`dsv4.data`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsv4.data.errors import DataError
from dsv4.data.mixture import Mixture, Source, in_order
from dsv4.data.prepared import open_sources
from dsv4.data.rows import IGNORE, Rows
from dsv4.train.recipe import Text

__all__ = ["IGNORE", "Batch", "DataError", "Feed", "batch_of"]

VERIFIED = 1 << 28  # tokens of a file that are all read before a run begins


@dataclass(frozen=True)
class Batch:
    """int64 [batch, seq_len] each; −100 in a target means: not counted.

    `documents`: the lengths of each row's documents, from its first token on; what they leave is
    padding. None: each row is one document.
    """

    ids: Tensor
    next_ids: Tensor  # the targets before masking: what MTP embeds
    targets: Tensor
    mtp_targets: Tensor
    documents: Sequence[Sequence[int]] | None = None
    first: int = 0  # which column of the rows is the first here


def batch_of(rows: Rows) -> Batch:
    """The same rows as tensors, which share their memory."""
    tensor = torch.from_numpy
    return Batch(
        tensor(rows.ids),
        tensor(rows.next_ids),
        tensor(rows.targets),
        tensor(rows.mtp_targets),
        rows.documents,
    )


class Feed:
    """Batches of a recipe's texts, from an exact position; and what is held out of them.

    Raises: DataError if a file is damaged, of another vocabulary, or holds no tokens.
    """

    def __init__(self, texts: Sequence[Text], *, seed: int, eos: int, vocab: int):
        self.eos, self.seed, self.least = eos, seed, 0
        self.sources = _sources(texts, "train", vocab)
        self.held_out = {one.name: one.file for one in _sources(texts, "validation", vocab)}
        self.mixture = self.mixed(0)
        self._resting: dict[str, Any] = {}  # positions in sources that are not mixed now

    def next(self, rows: int, seq_len: int, least: int = 0) -> Batch:
        """The next batch, of documents of `least` tokens and more. Raises DataError where the texts
        end or a file was cut short."""
        if least != self.least:
            self.load_state_dict(self.state_dict() | {"least": least})
        return batch_of(self.mixture.next(rows, seq_len))

    def mixed(self, least: int) -> Mixture:
        """The sources that hold documents of so many tokens. Raises DataError if none does."""
        chosen = [
            replace(source, least=max(least, source.least or 0)) if least else source
            for source in self.sources
        ]
        held = [source for source in chosen if source.tokens]
        if not held:
            raise DataError(f"no document has {least:,} tokens: lower stages.least, or add text")
        return Mixture(held, seed=self.seed, pad=self.eos)

    def state_dict(self) -> dict[str, Any]:
        """The exact position."""
        state = self.mixture.state_dict()
        sources = self._resting | state["sources"]
        return state | {"least": self.least, "sources": sources}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises DataError if it is in other files."""
        if state["least"] != self.least:
            self.mixture, self.least = self.mixed(state["least"]), state["least"]
        self.mixture.load_state_dict(state)
        mixed = self.mixture.sources
        self._resting = {name: own for name, own in state["sources"].items() if name not in mixed}

    def in_order(self, name: str, rows: int, seq_len: int) -> Iterator[Batch]:
        """What is held out of a source, once."""
        return map(batch_of, in_order(self.held_out[name], rows, seq_len, self.eos))


def _sources(texts: Sequence[Text], part: str, vocab: int) -> list[Source]:
    """The sources of all folders; a folder's weight is spread over its own by theirs."""
    found: list[Source] = []
    for text in texts:
        folder = Path(text.folder)
        sources = open_sources(folder, part, verify=False)
        total = sum(source.share for source in sources)
        for source in sources:
            source.file.check_fits(vocab)
            if source.file.header.tokens < VERIFIED:
                source.file.verify()
            share = None if text.weight is None else text.weight * source.share / total
            found.append(
                replace(
                    source,
                    name=source.name if len(texts) == 1 else f"{folder.name}/{source.name}",
                    weight=source.weight if share is None else share,
                    epochs=source.epochs if text.epochs is None else text.epochs,
                )
            )
    return found
