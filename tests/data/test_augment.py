"""Infilling turns back into the text, split tokens spell what they spelt, both from the seed."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4.data.augment import Augment, Encoder, infilling
from dsv4.data.document import Document, held_out
from dsv4.tokenizer import Tokenizer

NAMES = ["<｜begin▁of▁sentence｜>", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"]


@pytest.fixture(scope="module")
def released():
    return Tokenizer.deepseek()


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 99))
def test_infilling_inverts(text, seed):
    bos, begin, prefix, hole, suffix, end, middle, eos = infilling(text, random.Random(seed))
    assert prefix.text + middle.text + suffix.text == text
    assert [token.text for token in (bos, begin, hole, end)] == NAMES
    assert all(token.control for token in (bos, begin, hole, end, eos))
    assert not any(part.control for part in (prefix, suffix, middle))


def test_infilling_inverts_through_ids(documents, tokenizer_file):
    tokenizer = Tokenizer.load(tokenizer_file)
    encoder = Encoder(tokenizer, Augment(fim=1, split=0.5))
    for document in documents[:200]:
        ids = encoder(document).ids
        if document.messages or held_out(document.digest()):
            assert tokenizer.token_id("<｜fim▁hole｜>") not in ids
            continue
        _, prefix, suffix, middle = re.split("<｜fim▁(?:begin|hole|end)｜>", tokenizer.decode(ids))
        assert prefix + middle.removesuffix("<｜end▁of▁sentence｜>") + suffix == document.text


def test_about_the_share_of_prose_is_infilled(tokenizer_file):
    tokenizer = Tokenizer.load(tokenizer_file)
    encoder = Encoder(tokenizer, Augment())
    hole = tokenizer.token_id("<｜fim▁hole｜>")
    found = sum(hole in encoder(Document(f"text number {n}")).ids for n in range(3000))
    assert 240 <= found <= 360  # 297 expected, a deviation of 16


def test_both_follow_from_document_and_seed(documents, tokenizer_file):
    def ids(seed):
        encoder = Encoder(Tokenizer.load(tokenizer_file), Augment(0.5, 0.5, seed))
        return [encoder(document).ids for document in documents[:60]]

    assert ids(0) == ids(0) != ids(1)


def test_split_tokens_spell_the_same_text(released):
    text = 'One.\n\nTwo);\r\nThree ...\n"Four"\n\n\n_x_\n 5\n好。\n'
    ids = released.encode(text)
    whole = Encoder(released, Augment(split=1))
    apart = whole.split(ids, random.Random(0))
    assert released.decode(apart) == text and len(apart) > len(ids)
    for token in apart:
        assert not re.search(r"[^\w\s][\r\n]", released.token_bytes(token).decode())
    assert Encoder(released, Augment(split=0)).split(ids, random.Random(0)) == ids


def test_the_share_of_tokens_that_is_split(released):
    (token,) = released.encode(".\n\n")
    rng = random.Random(0)
    apart = Encoder(released, Augment(split=0.1)).split([token] * 5000, rng)
    assert set(apart) == {token, *released.encode("."), *released.encode("\n\n")}
    assert 430 <= len(apart) - 5000 <= 570  # 500 expected, a deviation of 21


def test_shares_out_of_range():
    for name in ("fim", "split"):
        for value in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match=f"{name} = .*: must be a share"):
                Augment(**{name: value})
