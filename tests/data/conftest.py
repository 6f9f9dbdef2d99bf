"""Documents of seeded words, a small tokenizer, and token files of them."""

import random

import pytest

from dsv4.data import bpe
from dsv4.data.augment import NOTHING
from dsv4.data.document import Document
from dsv4.data.tokenise import tokenise

WORDS = ["cat", "sat", "on", "a", "mat.\n\n", "and", "saw", "dogs;\n", "run", "over", "hills", "…"]


def words(rng, most=60):
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


@pytest.fixture(scope="session")
def documents():
    rng = random.Random(0)
    return [
        Document(words(rng)) if number % 3 else Document.exchange(words(rng, 9), words(rng, 9))
        for number in range(1500)
    ]


@pytest.fixture(scope="session")
def tokenizer_file(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return bpe.save_bpe(bpe.train_bpe(bpe.sample(documents), 360), folder, 1024)[0]


@pytest.fixture(scope="session")
def files(documents, tokenizer_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    return tokenise(documents, tokenizer_file, folder, source="words", augment=NOTHING)
