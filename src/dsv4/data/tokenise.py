"""Documents → the token files `train` and `validation`, by several processes.

Tokens lie in the documents' order, whatever the number of processes. Every `SYNC` documents what
stands is forced to disk and counted in `.tokenising.json`; the same call after a kill passes over
those documents and goes on.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsv4.atomic import replacing
from dsv4.data.augment import Augment, Encoder
from dsv4.data.document import Document
from dsv4.data.errors import DataError
from dsv4.data.tokens import TokenFile, paths_of, sha256_of
from dsv4.data.writer import Grown, TokenWriter
from dsv4.files import read_json
from dsv4.tokenizer import Tokenizer

PARTS = ("train", "validation")
CHUNK = 256  # documents that a process is given together
SYNC = 64 * CHUNK
LARGEST_JOURNAL = 1 << 20


@dataclass(frozen=True)
class Piece:
    """What one chunk adds to one part."""

    ids: np.ndarray
    lengths: np.ndarray
    nbytes: int


def tokenise(
    documents: Iterable[Document],
    tokenizer_file: Path,
    folder: Path,
    *,
    source: str,
    augment: Augment,
    workers: int = 1,
    say: Callable[[int, int], None] = lambda documents, tokens: None,
) -> dict[str, TokenFile]:
    """Write the token files of `documents` into `folder`, unless they are there already.

    `source` says what the documents are: files of the same source, tokenizer and augment are kept,
    of another are replaced. `say` is told documents and tokens every now and then.

    Raises: DataError for text that cannot be tokenised, WriteError; what stands is gone on with.
    """
    made = {
        "source": source,
        "tokenizer": sha256_of(tokenizer_file),
        **asdict(augment),
    }
    if found := _finished(folder, made):
        return found
    tokenizer = Tokenizer.load(tokenizer_file)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / ".tokenising.json"
    done, writers = _begin(folder, made, journal, tokenizer.largest_id + 1)
    rest = itertools.islice(documents, done, None)
    try:
        for count, pieces in _encoded(rest, tokenizer, tokenizer_file, augment, workers):
            done += count
            for writer, piece in zip(writers, pieces, strict=True):
                writer.append(piece.ids, piece.lengths, piece.nbytes)
            say(done, sum(writer.grown.tokens for writer in writers))
            if done % SYNC == 0:
                _write_journal(journal, made, done, writers)
        for writer in writers:
            writer.finish(made)
    finally:
        for writer in writers:
            writer.close()
    journal.unlink(missing_ok=True)
    return {part: TokenFile(folder, part) for part in PARTS}


# ---- going on ------------------------------------------------------------------------------------


def _finished(folder: Path, made: dict[str, Any]) -> dict[str, TokenFile] | None:
    if not all(path.is_file() for part in PARTS for path in paths_of(folder, part)):
        return None
    try:
        found = {part: TokenFile(folder, part) for part in PARTS}
    except DataError:
        return None  # made anew
    return found if all(file.header.made == made for file in found.values()) else None


def _begin(
    folder: Path, made: dict[str, Any], journal: Path, vocab: int
) -> tuple[int, list[TokenWriter]]:
    """Where to go on: the documents that are done, and the writers of both parts."""
    try:
        noted = read_json(journal, LARGEST_JOURNAL)
        if noted["made"] == made:
            grown = {part: Grown(**noted["parts"][part]) for part in PARTS}
            writers = [TokenWriter(folder, part, vocab, grown[part]) for part in PARTS]
            return noted["documents"], writers
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # nothing that could be gone on with: begin
    return 0, [TokenWriter(folder, part, vocab) for part in PARTS]


def _write_journal(
    journal: Path, made: dict[str, Any], done: int, writers: list[TokenWriter]
) -> None:
    for writer in writers:
        writer.sync()
    parts = {writer.name: asdict(writer.grown) for writer in writers}
    with replacing(journal) as stream:
        stream.write(json.dumps({"made": made, "documents": done, "parts": parts}).encode())


# ---- encoding ------------------------------------------------------------------------------------


def _encoded(
    documents: Iterator[Document],
    tokenizer: Tokenizer,
    tokenizer_file: Path,
    augment: Augment,
    workers: int,
) -> Iterator[tuple[int, list[Piece]]]:
    """Chunk by chunk, in order: the number of documents, and what they add to each part."""
    chunks = iter(lambda: list(itertools.islice(documents, CHUNK)), [])
    if workers <= 1:
        encoder = Encoder(tokenizer, augment)
        yield from ((len(chunk), encode_chunk(encoder, chunk)) for chunk in chunks)
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start, (tokenizer_file, augment)
    )
    with pool:
        waiting: deque[tuple[int, Future[list[Piece]]]] = deque()
        try:
            for chunk in chunks:
                waiting.append((len(chunk), pool.submit(_work, chunk)))
                if len(waiting) > 3 * workers:  # so much text is in memory, no more
                    count, future = waiting.popleft()
                    yield count, future.result()
            while waiting:
                count, future = waiting.popleft()
                yield count, future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that tokenised was ended, perhaps for want of memory: the same command "
                "goes on, and needs less with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def encode_chunk(encoder: Encoder, documents: list[Document]) -> list[Piece]:
    """What some documents add to each part."""
    encoded = [encoder(document) for document in documents]
    pieces = []
    for held_out in (False, True):
        own = [e for e in encoded if e.held_out is held_out]
        lengths = np.array([len(e.ids) for e in own], dtype=np.int64)
        ids = np.fromiter(itertools.chain.from_iterable(e.ids for e in own), np.uint32)
        pieces.append(Piece(ids, lengths, sum(e.nbytes for e in own)))
    return pieces


_encoder: Encoder | None = None  # of a worker process


def _start(tokenizer_file: Path, augment: Augment) -> None:
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends the pool
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encoder = Encoder(Tokenizer.load(tokenizer_file), augment)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next chunk for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(documents: list[Document]) -> list[Piece]:
    assert _encoder is not None
    return encode_chunk(_encoder, documents)
