"""Token files and packed batches: a row is `seq_len` tokens of documents laid end to end.

targets[t] = ids[t + 1] and mtp_targets[t] = ids[t + 2], or −100 where a document would be crossed.
Attention still reaches over the borders inside a row; only the targets respect them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsv4.tokenizer import Tokenizer
from dsv4.train.corpus import Document

IGNORE = -100
VALIDATION_SHARE = 100  # one document in a hundred, chosen by its hash
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"


@dataclass(frozen=True)
class Batch:
    """int64 [batch, seq_len] each; −100 in a target means: not counted."""

    ids: Tensor
    next_ids: Tensor  # the targets before masking: what MTP embeds
    targets: Tensor
    mtp_targets: Tensor


def document_ids(document: Document, tokenizer: Tokenizer) -> list[int]:
    """The ids of one document, control tokens placed by the protocol and never by its text."""
    control = tokenizer.token_id
    ids = [control(BOS)]
    if document.answer is None:
        return [*ids, *tokenizer.encode(document.text), control(EOS)]
    ids += [control("<｜User｜>"), *tokenizer.encode(document.text)]
    ids += [control("<｜Assistant｜>"), control("</think>")]
    return [*ids, *tokenizer.encode(document.answer), control(EOS)]


def write_tokens(documents: Iterable[Document], tokenizer: Tokenizer, folder: Path) -> None:
    """Write train.npy and validation.npy (uint32 ids end to end) and tokens.json (the counts)."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[int]] = {"train": [], "validation": []}
    nbytes = dict.fromkeys(parts, 0)
    for document in documents:
        text = document.text + (document.answer or "")
        digest = hashlib.sha256(text.encode()).digest()
        part = "train" if int.from_bytes(digest[:4]) % VALIDATION_SHARE else "validation"
        parts[part] += document_ids(document, tokenizer)
        nbytes[part] += len(text.encode())
    for part, ids in parts.items():
        temporary = folder / f".{part}.npy"
        np.save(temporary, np.asarray(ids, dtype=np.uint32))
        temporary.replace(folder / f"{part}.npy")
    counts = {part: {"tokens": len(ids), "bytes": nbytes[part]} for part, ids in parts.items()}
    temporary = folder / ".tokens.json"
    temporary.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "tokens.json")


class PackedRows:
    """Rows of a token file, in an order that a seed and an epoch decide."""

    def __init__(self, file: Path, seq_len: int, eos: int, seed: int):
        self.tokens = np.load(file, mmap_mode="r")
        self.seq_len, self.eos, self.seed = seq_len, eos, seed
        self.rows = (len(self.tokens) - 2) // seq_len
        if self.rows < 1:
            raise ValueError(
                f"{file} holds {len(self.tokens)} tokens, fewer than one row of {seq_len}"
            )

    def batch(self, step: int, size: int) -> Batch:
        """The batch of a step, the same whenever it is asked for: resuming needs no state."""
        numbers = range(step * size, (step + 1) * size)
        chosen = [self._order(number // self.rows)[number % self.rows] for number in numbers]
        return self._rows(chosen)

    def in_order(self, size: int) -> Iterator[Batch]:
        """Every row once, for validation."""
        for first in range(0, self.rows, size):
            yield self._rows(range(first, min(first + size, self.rows)))

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._shuffled = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
        return self._shuffled

    def _rows(self, numbers: Iterable[int]) -> Batch:
        starts = [int(number) * self.seq_len for number in numbers]
        block = np.stack([self.tokens[s : s + self.seq_len + 2] for s in starts]).astype(np.int64)
        wide = torch.from_numpy(block)  # [batch, seq_len + 2]
        ids, next_, after = wide[:, :-2], wide[:, 1:-1], wide[:, 2:]
        ended, ended_next = ids == self.eos, next_ == self.eos
        return Batch(
            ids.contiguous(),
            next_.contiguous(),
            next_.masked_fill(ended, IGNORE),
            after.masked_fill(ended | ended_next, IGNORE),
        )
