"""Prefix affinity, text to ids, events, addresses: each by itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4.checkpoint.load import packaged
from dsv4.remote.affinity import BLOCK, STEP, Affinity, Load, chain_of
from dsv4.remote.http import AddressError, Events, base_url, headers, is_loopback, shown
from dsv4.remote.text import TextIds
from dsv4.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load(packaged())
IDLE = [Load(0, 0, 0), Load(1, 0, 0)]


# ---- affinity ----------------------------------------------------------------------------------


def test_a_prompt_goes_where_most_of_it_is_known():
    affinity, ids = Affinity(), list(range(10 * BLOCK))
    affinity.learn(chain_of(ids[: 3 * BLOCK]), 0)
    affinity.learn(chain_of(ids[: 5 * BLOCK + 7]), 1)
    chain = chain_of(ids)
    assert affinity.known(chain, 0) == 3 * BLOCK and affinity.known(chain, 1) == 5 * BLOCK
    assert affinity.choose(ids, chain, IDLE) == 1
    other = [7, *ids]
    assert affinity.known(chain_of(other), 1) == 0  # a hash is of all tokens before it
    busy = [Load(0, 0, 0), Load(1, 0, 2 * BLOCK // STEP)]
    assert affinity.choose(ids, chain, [busy[0], Load(1, 0, 2 * BLOCK // STEP - 1)]) == 1
    assert affinity.choose(ids, chain, [busy[0], Load(1, 0, 2 * BLOCK // STEP + 1)]) == 0
    assert affinity.choose(ids, chain, [busy[0], Load(1, 2 * BLOCK + 1, 0)]) == 0
    affinity.forget(1)
    assert affinity.known(chain, 1) == 0 and affinity.choose(ids, chain, IDLE) == 0


def test_without_a_known_prefix_the_first_block_decides():
    prompts = [[n] * 200 for n in range(64)]
    chosen = [Affinity().choose(ids, chain_of(ids), IDLE) for ids in prompts]
    assert 16 < sum(chosen) < 48
    longer = [[*ids, *range(500)] for ids in prompts]
    assert chosen == [Affinity().choose(ids, chain_of(ids), IDLE) for ids in longer]
    short = [[n, 5] for n in range(64)]
    assert 16 < sum(Affinity().choose(ids, [], IDLE) for ids in short) < 48
    left = [load for load in IDLE if load.number == 1]
    assert all(Affinity().choose(ids, [], left) == 1 for ids in short)


def test_what_is_remembered_is_bounded():
    affinity = Affinity(most=4)
    first, last = [1] * 4 * BLOCK, [2] * 3 * BLOCK
    affinity.learn(chain_of(first), 0)
    affinity.learn(chain_of(last), 0)
    assert affinity.known(chain_of(last), 0) == 3 * BLOCK
    assert len(affinity._known) == 4


# ---- text --------------------------------------------------------------------------------------

WORDS = ["<｜User｜>", "</think>", "｜DSML｜", "a", "<", "｜", "é你", " the", "</", "\n"]


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.lists(st.integers(0, 60), max_size=8))
def test_text_in_any_pieces_keeps_control_tokens(words, cuts):
    text = "".join(words)
    reader, places = TextIds(TOKENIZER), sorted({0, *(min(c, len(text)) for c in cuts), len(text)})
    ids = [
        token
        for first, last in zip(places, [*places[1:], len(text)], strict=True)
        for token in reader.feed(text[first:last])
    ] + reader.finish()
    assert TOKENIZER.decode(ids) == text
    controls = [i for i in ids if TOKENIZER.control_text(i)]
    whole = TOKENIZER.encode(text, special=True)
    assert controls == [i for i in whole if TOKENIZER.control_text(i)]


# ---- http --------------------------------------------------------------------------------------


@given(st.integers(1, 9))
def test_events_in_any_pieces(size):
    data = ': x\n\nevent: y\ndata: {"a":"\u2028\x85"}\r\n\r\ndata:[DONE]\n\ndata: cut'.encode()
    events = Events()
    found = [e for i in range(0, len(data), size) for e in events.feed(data[i : i + size])]
    assert found == ['{"a":"\u2028\x85"}'.encode(), b"[DONE]"]


def test_an_event_without_end(monkeypatch):
    monkeypatch.setattr("dsv4.remote.http.LARGEST", 10)
    with pytest.raises(ValueError, match="no end"):
        list(Events().feed(b"data: 123456789"))


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://a:1/v1/", "http://a:1"),
        ("https://a/x/v1", "https://a/x"),
        ("http://u:p@a", "http://u:p@a"),
    ],
)
def test_addresses(given, url):
    assert base_url(given, "--url") == url
    assert "p@" not in shown(url)


@pytest.mark.parametrize("given", ["a:1", "ftp://a", "http://", "http://a?b=c", "", "http://a:x"])
def test_what_is_no_address(given):
    with pytest.raises(AddressError, match="--url"):
        base_url(given, "--url")


def test_keys_and_loopbacks():
    assert headers(None) == headers("") == {}
    assert headers("k") == {"Authorization": "Bearer k"}
    for key in ("a\nb", "é", " k"):
        with pytest.raises(AddressError, match="API key"):
            headers(key)
    assert is_loopback("http://localhost:1") and is_loopback("http://[::1]:1")
    assert is_loopback("http://127.8.0.1") and not is_loopback("http://10.0.0.1")
