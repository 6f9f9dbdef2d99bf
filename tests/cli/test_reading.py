"""How far a long prompt is read, said on stderr; and prompts whose cache would not fit."""

import io

import pytest

import dsv4
from dsv4.cli import reading, session
from dsv4.cli.reading import Reading, closing_line, line
from dsv4.interrupt import Interrupted
from dsv4.sampling import Sampling


class Terminal(io.StringIO):
    def isatty(self):
        return True


def impatient(monkeypatch, stream):
    monkeypatch.setattr(reading, "PATIENCE", 0.0)
    monkeypatch.setattr(reading, "PERIODS", {True: 0.0, False: 0.0})
    monkeypatch.setattr("sys.stderr", stream)


def test_the_line_says_rate_and_rest():
    told = line(65_536, 1_000_000, 8.0)
    assert told == "reading the prompt: 65,536 of 1,000,000 tokens, 8,192 tokens/s, 1:54 left"
    assert line(0, 10, 0.0).endswith("0 tokens/s, 0:00 left")


def test_a_terminal_sees_one_line_that_goes_away(monkeypatch):
    stream = Terminal()
    impatient(monkeypatch, stream)
    with pytest.raises(Interrupted), closing_line() as progress:
        progress(512, 2048)
        progress(1024, 2048)
        raise Interrupted
    text = stream.getvalue()
    assert "\n" not in text and "1,024 of 2,048" in text
    assert text.rsplit("\r", 2)[1].strip() == ""  # what stands there last


def test_a_short_prompt_is_read_without_a_word(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    progress = Reading()
    progress(20, 20)
    progress.end()
    assert stream.getvalue() == ""


def test_a_reply_tells_what_is_read(make_model, make_ids, tokenizer_file, monkeypatch, capsys):
    stream = io.StringIO()
    impatient(monkeypatch, stream)
    monkeypatch.setattr("dsv4.generation.PREFILL", 64)
    tokenizer = dsv4.Tokenizer.load(tokenizer_file)
    model = make_model(vocab_size=tokenizer.vocab_size)
    prompt = make_ids(1, 150)[0].tolist()
    session.continue_text(model, tokenizer, prompt, Sampling(seed=1, max_tokens=1))
    read = [told.split()[3] for told in stream.getvalue().splitlines() if "reading" in told]
    assert read == ["64", "128", "150"]


def test_a_cache_that_does_not_fit_is_refused_before_reading(
    make_model, make_ids, tokenizer_file, monkeypatch
):
    tokenizer = dsv4.Tokenizer.load(tokenizer_file)
    model = make_model(vocab_size=tokenizer.vocab_size)
    stores = model.new_cache(1).stores
    assert stores.bytes_of(257) == stores.slot_bytes + 3 * stores.page_bytes
    monkeypatch.setattr(session, "free_memory", lambda: stores.bytes_of(257) - 1)
    prompt = make_ids(1, 200)[0].tolist()
    with pytest.raises(ValueError, match=r"cache of 257 tokens takes .* MiB, .*: shorten"):
        session.continue_text(model, tokenizer, prompt, Sampling(seed=1, max_tokens=57))
    session.continue_text(model, tokenizer, prompt, Sampling(seed=1, max_tokens=2))
