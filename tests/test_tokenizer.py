import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_missing_and_broken_files(tmp_path, tokenizer):
    with pytest.raises(TokenizerError, match="no tokenizer at"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="not a readable"):
        Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match="no token '<nothing>'"):
        tokenizer.token_id("<nothing>")
