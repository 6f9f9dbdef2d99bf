import random
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsv4.tokenizer as tokenizers
from dsv4.tokenizer import Tokenizer, TokenizerError

SPECIAL = {
    "<｜begin▁of▁sentence｜>": 0,
    "<｜end▁of▁sentence｜>": 1,
    "<｜User｜>": 128803,
    "<｜Assistant｜>": 128804,
    "<think>": 128821,
    "</think>": 128822,
    "｜DSML｜": 128825,
    "<｜action｜>": 128829,
    "<｜title｜>": 128836,
    "<｜read_url｜>": 128845,
}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.deepseek()


def test_the_released_tokenizer_has_the_documented_ids(tokenizer):
    assert tokenizer.vocab_size == 129280
    assert {token: tokenizer.token_id(token) for token in SPECIAL} == SPECIAL


def test_control_tokens_come_only_where_they_are_asked_for(tokenizer):
    text = "".join(SPECIAL)
    assert tokenizer.encode(text, special=True) == list(SPECIAL.values())
    plain = tokenizer.encode(text)
    assert not set(plain) & set(SPECIAL.values()) and tokenizer.decode(plain) == text
    assert tokenizer.decode([0, *tokenizer.encode("hi"), 1], skip_special=True) == "hi"


@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_streamed_pieces_join_to_the_decoded_text(text, tokenizer):
    ids = tokenizer.encode(text + "🙂 世界")
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(ids) == text + "🙂 世界"
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_half_a_character_is_held_back_and_then_shown_broken(tokenizer):
    first, *rest = tokenizer.encode("\U0001f9ff")
    assert rest
    stream = tokenizer.stream()
    assert stream.push(first) == "" and stream.finish() == "\ufffd"


def test_broken_bytes_come_out_at_once(tokenizer):
    lone = tokenizer._plain.token_to_id("\u0122")  # the byte 80, which no character begins with
    lead = tokenizer.encode("\U0001f9ff")[0]
    for run in ([lone] * 16_000, [lead] * 500, [lead, lone, lone, 35, lead]):
        stream = tokenizer.stream()
        pieces = [stream.push(token) for token in run]
        assert "".join(pieces) + stream.finish() == tokenizer.decode(run)
    assert tokenizer.stream().push(lone) == "\ufffd"


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 129_300) | st.integers(128_800, 128_850), max_size=30))
def test_any_ids_stream_to_their_decoded_text(ids, tokenizer):
    stream, marked = tokenizer.stream(), tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)
    pieces = [piece for token in ids for piece in marked.pieces(token)]
    controls = [text for text, control in pieces if control]
    assert controls == [text for i in ids if (text := tokenizer.control_text(i)) is not None]


def test_a_control_token_is_a_piece_of_its_own(tokenizer):
    stream, first = tokenizer.stream(), tokenizer.encode("\U0001f9ff")[0]
    assert stream.pieces(first) == []
    assert stream.pieces(128822) == [("\ufffd", False), ("</think>", True)]
    assert [p for i in tokenizer.encode("</think>") for p in stream.pieces(i)] == [
        (text, False) for text in ("</", "think", ">")
    ]


def test_missing_and_broken_files(tmp_path, tokenizer):
    with pytest.raises(TokenizerError, match="no tokenizer at"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="not a readable"):
        Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match="no token '<nothing>'"):
        tokenizer.token_id("<nothing>")


PIECES = [
    "word ",
    " ",
    "\n",
    "  \n\n ",
    "12",
    "7",
    "é",
    "e\u0301",
    "世界",
    "!?",
    "a",
    "<｜User｜>",
    "<th",
]


@pytest.mark.parametrize("special", [False, True])
def test_a_long_text_is_encoded_in_sections_as_it_is_whole(tokenizer, monkeypatch, special):
    chosen = random.Random(0)
    backend = tokenizer.backend if special else tokenizer._plain
    for section, margin in ((300, 64), (1 << 10, 256)):
        monkeypatch.setattr(tokenizers, "SECTION", section)
        monkeypatch.setattr(tokenizers, "MARGIN", margin)
        for _ in range(30):
            some = chosen.sample(PIECES, 4)
            text = "".join(chosen.choice(some) for _ in range(3_000))
            whole = backend.encode(text, add_special_tokens=False).ids
            parts = list(tokenizer.parts(text, special=special))
            assert list(chain(*parts)) == whole == tokenizer.encode(text, special=special)
            assert len(parts) > 2


def test_a_text_of_one_word_is_one_section(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizers, "SECTION", 1 << 10)
    for text in ("a" * 9_000, " " * 9_000, "\n" * 9_000):
        whole = tokenizer._plain.encode(text, add_special_tokens=False).ids
        assert list(tokenizer.parts(text)) == [whole] == [tokenizer.encode(text)]


def test_the_longest_token_bounds_a_count_from_below(tokenizer):
    assert tokenizer.longest == 128
    for text in (" " * 5_000, "the end " * 900):
        assert len(text.encode()) / tokenizer.longest <= len(tokenizer.encode(text))
