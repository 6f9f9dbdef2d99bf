"""What the prefix cache keeps when it cannot keep all, and what it says of what it lacks."""

import random

import pytest

from dsv4.engine.engine import Engine
from dsv4.engine.prefix import replay_tokens


def tokens(seed, count):
    chosen = random.Random(seed)
    return [chosen.randrange(4, 8000) for _ in range(count)]


@pytest.fixture
def small(make_engine):
    """An engine whose pool holds twenty pages."""
    probe = make_engine(slots=1).pool.stores
    return make_engine(memory=int((8 * probe.slot_bytes + 20 * probe.page_bytes) / 0.75) + 1000)


def test_a_conversation_outlives_a_burst_of_short_prompts(small, ask):
    talk = tokens(1, 500)
    for _ in range(2):  # used again: a conversation
        ask(small, talk, max_tokens=2).wait()
    for burst in range(40):
        ask(small, tokens(100 + burst, 200), max_tokens=2).wait()
    assert small.statistics()["evicted_pages"] > 0
    assert ask(small, [*talk, 7, 8], max_tokens=2).wait().usage.cached >= 499 - 16


@pytest.mark.parametrize("short", ["states", "pages"])
def test_old_conversations_make_room_for_new_ones(make_engine, ask, short):
    """However many were reused before, the next one's turns read what is new."""
    probe = make_engine(slots=1).pool.stores
    few = int((8 * probe.slot_bytes + 12 * probe.page_bytes) / 0.75) + 1000
    engine = make_engine(memory=few if short == "pages" else 48 << 20)
    for number in range(24):
        history = tokens(300 + number, 100)
        for turn in range(4):
            heard = ask(engine, history, max_tokens=8).wait()
            assert not turn or heard.usage.prompt - heard.usage.cached <= 30 + 1
            history = [*history, *heard.ids, *tokens(turn, 30)]
    counters = engine.prefix.counters
    assert counters.evicted_pages if short == "pages" else counters.evicted_states


def test_what_was_evicted_is_said(small, ask):
    first = tokens(2, 500)
    ask(small, first, max_tokens=2).wait()
    for other in range(30):
        ask(small, tokens(200 + other, 500), max_tokens=2).wait()
    usage = ask(small, first, max_tokens=2).wait().usage
    assert usage.cached == 0 and usage.missed.startswith("evicted: from token 0")


def test_the_reasons_of_a_miss(make_engine, ask):
    engine = make_engine(period=512)
    ids = tokens(3, 600)
    assert (
        ask(engine, ids, max_tokens=2).wait().usage.missed
        == "token 0 is the first that is not known"
    )
    assert ask(engine, ids, max_tokens=2).wait().usage.missed == ""
    early = ask(engine, [*ids[:300], 5, 6, 7], max_tokens=2).wait().usage
    assert early.cached == 0 and early.missed.startswith("policy: 300 tokens are known")
    late = ask(engine, [*ids[:550], 5, 6, 7], max_tokens=2).wait().usage
    assert late.cached == 550 and late.missed == "token 550 is the first that is not known"


def test_snapshots_are_bounded(make_engine, ask):
    engine = make_engine(memory=64 << 20)
    for number in range(30):
        ask(engine, tokens(number, 40), max_tokens=2).wait()
        assert engine.prefix.held_bytes <= engine.prefix.state_bytes


def test_a_period_that_is_no_multiple_of_a_page_is_refused(make_engine):
    with pytest.raises(ValueError, match="multiple of 128"):
        make_engine(period=100)


def test_the_replay_of_the_report(nano):
    config = nano.config
    assert replay_tokens(config) == 5 * 127 + 128
    assert replay_tokens(config.replace(sliding_window=64)) == 5 * 63 + 128


def test_too_little_memory_is_said_with_what_would_do(nano):
    with pytest.raises(ValueError, match="give at least"):
        Engine(nano, slots=8, memory=1 << 20)


def test_prefixes_on_disk_need_an_identity(nano, tmp_path):
    with pytest.raises(ValueError, match="identity"):
        Engine(nano, slots=1, folder=tmp_path)


def test_a_token_or_two_of_a_long_prompt_are_read_anew(make_engine, ask):
    engine = make_engine()
    for begin, cached in ((1, 0), (7, 0), (8, 8), (3, 0)):
        shared = [begin + 10] * begin
        ask(engine, [*shared, *range(100, 200)], max_tokens=2).wait()
        usage = ask(engine, [*shared, *range(300, 440)], max_tokens=2).wait().usage
        assert usage.cached == cached
        assert usage.missed == f"token {begin} is the first that is not known"
    ask(engine, [5, 6, 7], max_tokens=2).wait()
    assert ask(engine, [5, 6, 8], max_tokens=2).wait().usage.cached == 2
