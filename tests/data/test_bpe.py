"""The text that a tokenizer is trained on: an even sample, bounded, without what is held out."""

import tracemalloc

import pytest

from dsv4.data import bpe
from dsv4.data.document import Document, held_out
from dsv4.tokenizer import Tokenizer


def test_all_of_a_small_corpus_in_its_order_but_what_is_held_out(documents):
    kept = [d for d in documents if not held_out(d.digest())]
    texts = list(bpe.sample(documents))
    assert len(texts) == len(kept) < len(documents)
    assert texts[1:3] == [documents[1].text, documents[2].text]
    assert texts[0] == "\n".join(message["content"] for message in documents[0].messages)


def test_a_sample_is_even_bounded_and_streamed():
    def many():
        for number in range(20_000):
            yield Document(f"{number:06} " + "x" * 993)

    tracemalloc.start()
    texts = list(bpe.sample(many(), 1_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    numbers = [int(text[:6]) for text in texts]
    assert 900 <= len(texts) <= 1000 and peak < 8_000_000
    assert numbers == sorted(numbers)
    assert all(60 <= sum(n // 2000 == part for n in numbers) <= 150 for part in range(10))
    assert texts == list(bpe.sample(many(), 1_000_000))


def test_it_has_the_releases_control_tokens_and_its_size(tokenizer_file):
    tokenizer, released = Tokenizer.load(tokenizer_file), Tokenizer.deepseek()
    assert tokenizer.vocab_size == 360
    for token in ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"):
        assert tokenizer.token_id(token) == released.token_id(token)
    for token in ("<｜User｜>", "</think>", "｜DSML｜", "<｜read_url｜>", "<｜fim▁hole｜>"):
        assert tokenizer.encode(token, special=True) == [tokenizer.token_id(token)]
        assert tokenizer.token_id(token) not in tokenizer.encode(token)


def test_too_little_text_or_too_few_ids(documents):
    with pytest.raises(ValueError, match=r"yields only .* of 400 tokens: give more text"):
        bpe.train_bpe(["a cat"], 400)
    with pytest.raises(ValueError, match="vocab_size = 100: the tokenizer needs at least"):
        bpe.check_vocab(100)
