"""A small byte-level BPE in the released tokenizer's form: its splits, and its control tokens.

Ids 0, 1, 2 are BOS, EOS and pad as in the release; the other named control tokens come last.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import models, trainers

from dsv4.atomic import replacing
from dsv4.data.document import Document, held_out
from dsv4.protocol.constants import BOS, EOS
from dsv4.tokenizer import Tokenizer

FIRST_CONTROL = 128800  # released ids from here to 129279 are control tokens or placeholders
TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
SAMPLE = 1 << 26  # letters that a tokenizer is trained on
PLACEHOLDERS = ("<｜place▁holder", "<|place_holder")


def control_tokens(released: Tokenizer) -> tuple[list[tokenizers.AddedToken], ...]:
    """The release's named control tokens: those with the lowest ids, and all the others."""
    added = released.backend.get_added_tokens_decoder()
    named = {
        i: token for i, token in sorted(added.items()) if not token.content.startswith(PLACEHOLDERS)
    }
    first = [token for i, token in named.items() if i < FIRST_CONTROL]
    return first, [token for i, token in named.items() if i >= FIRST_CONTROL]


def check_vocab(vocab_size: int) -> None:
    """Raises ValueError if there is no room for the 256 bytes and the control tokens."""
    least = 256 + sum(len(tokens) for tokens in control_tokens(Tokenizer.deepseek()))
    if vocab_size < least:
        raise ValueError(
            f"vocab_size = {vocab_size}: the tokenizer needs at least {least}, for every byte and "
            "the control tokens"
        )


def sample(documents: Iterable[Document], most: int = SAMPLE) -> Iterator[str]:
    """The texts of documents of at most `most` letters, drawn evenly from all that are not held
    out: those whose hashes are smallest. No more than that is in memory."""
    kept: list[tuple[int, int, str]] = []  # a heap, the largest hash first
    size = 0
    for number, document in enumerate(documents):
        digest = document.digest()
        if held_out(digest):
            continue
        text = "\n".join(text for text, control in document.segments() if not control)
        heapq.heappush(kept, (-int.from_bytes(digest[4:12]), number, text))
        size += len(text)
        while size > most and len(kept) > 1:
            size -= len(heapq.heappop(kept)[2])
    return (text for _, _, text in sorted(kept, key=lambda entry: entry[1]))


def train_bpe(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """A BPE of exactly `vocab_size` ids, control tokens included, trained on `texts`."""
    released = Tokenizer.deepseek()
    first, last = control_tokens(released)
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = released.backend.pre_tokenizer
    bpe.decoder = released.backend.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(last),
        special_tokens=[token.content for token in first],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(first)
    bpe.add_tokens(last)
    if bpe.get_vocab_size() != vocab_size:
        raise ValueError(
            f"the text yields only {bpe.get_vocab_size()} of {vocab_size} tokens: give more text"
        )
    return bpe


def save_bpe(bpe: tokenizers.Tokenizer, folder: Path, context: int) -> list[Path]:
    """Write tokenizer.json and tokenizer_config.json; returns their paths."""
    return _write(folder, bpe.to_str().encode(), _settings(context))


def copy_tokenizer(source: Path, folder: Path, context: int) -> list[Path]:
    """The same of a tokenizer.json that there is, and of the tokenizer_config.json beside it, if
    any."""
    beside = source.with_name(CONFIG_FILE)
    config = beside.read_bytes() if beside.is_file() else _settings(context)
    return _write(folder, source.read_bytes(), config)


def _settings(context: int) -> bytes:
    settings = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()


def _write(folder: Path, tokenizer: bytes, config: bytes) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    contents = {CONFIG_FILE: config, TOKENIZER_FILE: tokenizer}
    for name, data in contents.items():
        with replacing(folder / name) as stream:
            stream.write(data)
    return [folder / TOKENIZER_FILE, folder / CONFIG_FILE]
