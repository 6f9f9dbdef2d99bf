"""Token files and packed batches: a row is `seq_len` tokens of documents laid end to end.

targets[t] = ids[t + 1] and mtp_targets[t] = ids[t + 2], or −100 where a document would be crossed.
Attention still reaches over the borders inside a row; only the targets respect them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsv4.atomic import replacing
from dsv4.files import check_regular, read_json
from dsv4.tokenizer import Tokenizer
from dsv4.train.corpus import Document

IGNORE = -100
COUNTS_FILE, LARGEST_COUNTS = "tokens.json", 1 << 16
SCANNED = 1 << 24  # tokens looked at together
REMEDY = "delete {} to have it prepared again"
VALIDATION_SHARE = 100  # one document in a hundred, chosen by its hash
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"


@dataclass(frozen=True)
class Batch:
    """int64 [batch, seq_len] each; −100 in a target means: not counted."""

    ids: Tensor
    next_ids: Tensor  # the targets before masking: what MTP embeds
    targets: Tensor
    mtp_targets: Tensor
    documents: Sequence[Sequence[int]] | None = None  # lengths of each row's; None: one each


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
        tokens = np.asarray(ids, dtype=np.uint32)
        header = np.lib.format.header_data_from_array_1_0(tokens)
        with replacing(folder / f"{part}.npy") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            stream.write(tokens.data)  # np.save would hide why the system refuses
    counts = {part: {"tokens": len(ids), "bytes": nbytes[part]} for part, ids in parts.items()}
    with replacing(folder / COUNTS_FILE) as stream:  # last: what is beside it is whole
        stream.write((json.dumps(counts, indent=1) + "\n").encode())


class DataError(ValueError):
    """Prepared data that cannot be trained on: the message names the file and the remedy."""


@dataclass(frozen=True)
class Counts:
    """How much a token file holds, in tokens and in bytes of their text."""

    tokens: int
    bytes: int


def read_counts(folder: Path) -> dict[str, Counts]:
    """What tokens.json promises of "train" and "validation". Raises DataError."""
    file = folder / COUNTS_FILE
    try:
        values = read_json(file, LARGEST_COUNTS)
        counts = {part: Counts(**values[part]) for part in ("train", "validation")}
        whole = all(type(n) is int and n > 0 for c in counts.values() for n in vars(c).values())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}): {REMEDY.format(folder)}") from error
    if not whole:
        raise DataError(f"{file} counts no tokens of a part: {REMEDY.format(folder)}")
    return counts


def open_tokens(file: Path, count: int, vocab: int) -> np.ndarray:
    """The ids of a token file: uint32 [count], mapped, each below `vocab`. Raises DataError."""
    remedy = REMEDY.format(file.parent)
    try:
        check_regular(file)
        tokens = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} is damaged ({error}): {remedy}") from error
    if tokens.dtype != np.uint32 or tokens.shape != (count,):
        raise DataError(
            f"{file} holds {tokens.dtype} {list(tokens.shape)}, {COUNTS_FILE} promises uint32 "
            f"[{count}]: {remedy}"
        )
    for first in range(0, count, SCANNED):
        largest = int(tokens[first : first + SCANNED].max())
        if largest >= vocab:
            raise DataError(
                f"{file} holds token {largest}, this model's vocabulary ends at {vocab - 1}: it "
                "was prepared for another model, train into another folder"
            )
    return tokens


class PackedRows:
    """Rows of the token file of a part, in an order that a seed and an epoch decide.

    Raises: DataError if the file is damaged, of another vocabulary, or holds no whole row.
    """

    def __init__(self, folder: Path, part: str, *, seq_len: int, eos: int, seed: int, vocab: int):
        self.file, self.counts = folder / f"{part}.npy", read_counts(folder)[part]
        self.tokens = open_tokens(self.file, self.counts.tokens, vocab)
        self.seq_len, self.eos, self.seed = seq_len, eos, seed
        self.rows = (len(self.tokens) - 2) // seq_len
        if self.rows < 1:
            raise DataError(
                f"{self.file} holds {len(self.tokens)} tokens, fewer than one row of {seq_len} "
                "and the two after it: shorten --seq-len, or give more text"
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
