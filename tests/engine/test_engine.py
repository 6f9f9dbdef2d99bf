"""The engine's tokens are those of plain generation, whatever runs beside them."""

import random

import pytest
import torch

import dsv4
from dsv4.engine.request import FullError, Job
from dsv4.generation import generate
from dsv4.sampling import Sampling

from .conftest import Heard


@pytest.fixture(scope="module")
def prompts():
    chosen = random.Random(5)
    lengths = [1, 2, 5, 17, 63, 127, 128, 129, 140, 200, 255, 256, 257, 300, 700, 31]
    return [[chosen.randrange(8192) for _ in range(length)] for length in lengths]


@pytest.fixture(scope="module")
def plain(nano, prompts):
    """What plain generation says, greedy and sampled."""
    greedy = [generate(nano, prompt, temperature=0, max_tokens=16).ids for prompt in prompts]
    drawn = [generate(nano, prompt, temperature=1, seed=7, max_tokens=16).ids for prompt in prompts]
    return greedy, drawn


def without_end(ids):
    return ids[:-1] if ids and ids[-1] == 1 else ids


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_tokens_do_not_depend_on_the_neighbours(make_engine, ask, prompts, plain, slots):
    engine = make_engine(slots=slots)
    greedy = [ask(engine, prompt) for prompt in prompts]
    drawn = [ask(engine, prompt, temperature=1, seed=7) for prompt in prompts]
    assert [without_end(heard.wait().ids) for heard in greedy] == plain[0]
    assert [without_end(heard.wait().ids) for heard in drawn] == plain[1]
    for heard, prompt in zip(greedy, prompts, strict=True):
        assert heard.end.reason == ("stop" if heard.ids[-1] == 1 else "length")
        assert heard.end.usage.prompt == len(prompt)
        assert heard.end.usage.completion == len(heard.ids)


def test_with_a_prefix_cache_of_each_policy(make_engine, ask, prompts, plain):
    for period in (0, 128, 512):
        engine = make_engine(period=period)
        for _ in range(2):  # the second time from the cache
            heard = [ask(engine, prompt).wait() for prompt in prompts]
            assert [without_end(each.ids) for each in heard] == plain[0]
        if period:  # a retry costs one token
            assert [each.usage.cached for each in heard] == [len(p) - 1 for p in prompts]


def test_preemption_changes_nothing(make_engine, ask, nano, prompts, plain):
    probe = make_engine(slots=1).pool.stores
    pages = 12  # of 128 tokens: not enough for all
    memory = int((8 * probe.slot_bytes + pages * probe.page_bytes) / 0.75) + 1000
    engine = make_engine(memory=memory, slots=8)
    long = [p for p in prompts if len(p) >= 127]
    said = [ask(engine, prompt, max_tokens=200) for prompt in long]
    expected = [generate(nano, p, temperature=0, max_tokens=200).ids for p in long]
    assert [without_end(heard.wait().ids) for heard in said] == expected
    assert engine.statistics()["preempted"] > 0
    engine.close(5)
    assert engine.pool.free_slots == 8


def test_everything_is_given_back(make_engine, ask, prompts):
    engine = make_engine()
    for heard in [ask(engine, prompt) for prompt in prompts]:
        heard.wait()
    assert engine.pool.free_slots == 8
    engine.close(5)
    engine.prefix.clear()
    assert engine.pool.free_pages == engine.pool.stores.pages
    assert engine.prefix.held_bytes == 0


def test_a_cancelled_job_frees_its_state_and_disturbs_nobody(make_engine, ask, prompts, plain):
    engine = make_engine()
    endless = [ask(engine, prompt, max_tokens=5000) for prompt in prompts[:6]]
    others = [ask(engine, prompt) for prompt in prompts]
    for heard in endless:
        heard.job.cancel()
    assert {heard.wait().end.reason for heard in endless} <= {"cancelled", "stop"}
    assert [without_end(heard.wait().ids) for heard in others] == plain[0]
    assert engine.pool.free_slots == 8


def test_a_listener_ends_its_reply(make_engine, ask, prompts, plain):
    heard = ask(make_engine(), prompts[3], stop_after=4).wait()
    assert heard.end.reason == "stop" and heard.ids == plain[0][3][:4]


def test_what_a_listener_raises_fails_its_job_alone(make_engine, ask, prompts, plain):
    engine = make_engine()
    broken = ask(engine, prompts[4], max_tokens=400)
    broken.tokens = lambda new: 1 / 0
    others = [ask(engine, prompt) for prompt in prompts]
    assert isinstance(broken.wait().end.error, ZeroDivisionError)
    assert broken.end.reason == "error"
    assert [without_end(heard.wait().ids) for heard in others] == plain[0]


def test_what_the_model_raises_fails_all_and_the_engine_goes_on(
    make_engine, ask, prompts, plain, monkeypatch
):
    engine = make_engine()
    ask(engine, prompts[8]).wait()
    streams = engine.model.streams_and_targets

    def fail(*_, **__):
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(engine.model, "streams_and_targets", fail)
    failed = [ask(engine, prompt) for prompt in prompts[:3]]
    for heard in failed:
        assert heard.wait().end.reason == "error" and "the disk is gone" in str(heard.end.error)
    monkeypatch.setattr(engine.model, "streams_and_targets", streams)
    assert without_end(ask(engine, prompts[8]).wait().ids) == plain[0][8]
    assert engine.pool.free_slots == 8


def test_jobs_that_cannot_run_are_refused(make_engine, ask):
    engine = make_engine()
    for ids, words in (([], "no tokens"), ([9000], "vocabulary"), ([-1], "vocabulary")):
        with pytest.raises(ValueError, match=words):
            ask(engine, ids)
    with pytest.raises(ValueError, match="maximum context length is"):
        ask(engine, [5] * engine.context)


@pytest.mark.parametrize("queue", [0, 2])
def test_the_queue_holds_what_no_slot_takes(make_engine, ask, prompts, queue):
    """What was cancelled makes room before the engine has seen it."""
    engine = make_engine(slots=2, queue=queue)
    endless = Job(prompts[8], Sampling(temperature=0, max_tokens=100_000), end_ids=())
    heard = [Heard() for _ in range(2 + queue)]
    handles = [engine.submit(endless, each) for each in heard]
    with pytest.raises(FullError, match=f"{queue} requests wait already"):
        ask(engine, prompts[8])
    handles[0].cancel()
    last = ask(engine, prompts[8])
    for handle in handles[1:]:
        handle.cancel()
    assert last.wait().end.reason in ("stop", "length")
    assert all(each.wait().end.reason == "cancelled" for each in heard)


def test_closing_finishes_what_runs_and_takes_no_more(make_engine, ask, prompts):
    engine = make_engine()
    heard = [ask(engine, prompt) for prompt in prompts]
    engine.close(60)
    assert all(each.wait().end.reason in ("stop", "length") for each in heard)
    with pytest.raises(RuntimeError, match="shutting down"):
        ask(engine, prompts[0])


@torch.inference_mode()
def test_a_turn_reads_what_is_new(make_engine, ask, nano):
    """Ten turns, each with all that was said: the new message and at most sixteen tokens."""
    engine, chosen, history = make_engine(), random.Random(1), []
    for turn in range(10):
        new = [chosen.randrange(4, 8000) for _ in range(20)]
        heard = ask(engine, [*history, *new], max_tokens=30, temperature=1, seed=turn).wait()
        prompt, cached = heard.usage.prompt, heard.usage.cached
        assert prompt == len(history) + 20
        assert prompt - cached <= len(new) + 16
        history += [*new, *heard.ids]


def test_an_edit_reads_what_follows(make_engine, ask):
    engine, chosen = make_engine(), random.Random(2)
    ids = [chosen.randrange(4, 8000) for _ in range(1400)]
    ask(engine, ids, max_tokens=2).wait()
    for edit in (600, 1399, 1000, 128, 300, 5):
        edited = [*ids[:edit], ids[edit] + 1, *ids[edit + 1 :]]
        heard = ask(engine, edited, max_tokens=2).wait()
        assert heard.usage.prompt - heard.usage.cached <= len(ids) - edit + 160
        assert heard.usage.cached <= edit
        if len(ids) - edit > 130:
            assert "token" in heard.usage.missed


def test_a_prompt_is_computed_once_for_many(make_engine, ask, prompts, plain):
    engine = make_engine()
    many = [ask(engine, prompts[14], number=n, temperature=1, seed=7) for n in range(6)]
    ids = [tuple(heard.wait().ids) for heard in many]
    assert len(set(ids)) > 1 and without_end(list(ids[0])) == plain[1][14]
    read = sum(heard.usage.prompt - heard.usage.cached for heard in many)
    assert read <= len(prompts[14]) + 5


@pytest.mark.parametrize("period", [0, 128, 1024])
def test_policies_reuse_to_the_bit(make_engine, ask, nano, period):
    """A long prompt, then one that leaves it late: the same tokens whatever was kept."""
    chosen = random.Random(3)
    ids = [chosen.randrange(4, 8000) for _ in range(2000)]
    other = [*ids[:1900], *(chosen.randrange(4, 8000) for _ in range(30))]
    engine = make_engine(period=period)
    ask(engine, ids).wait()
    heard = ask(engine, other, max_tokens=40).wait()
    assert without_end(heard.ids) == generate(nano, other, temperature=0, max_tokens=40).ids
    bound = {0: engine.prefix.replay + 128, 128: 128, 1024: 1024}[period]
    assert 1900 - bound <= heard.usage.cached <= 1900
    if period == 0:
        assert engine.prefix.held_bytes == 0


@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_drafts_change_nothing_but_the_speed(make_engine, ask, prompts, plain, threshold):
    engine = make_engine(draft=threshold)
    told = 0
    for _ in range(2):  # the second time behind prefixes that the draft never saw
        greedy = [ask(engine, prompt) for prompt in prompts]
        drawn = [ask(engine, prompt, temperature=1, seed=7) for prompt in prompts]
        assert [without_end(heard.wait().ids) for heard in greedy] == plain[0]
        assert [without_end(heard.wait().ids) for heard in drawn] == plain[1]
        told += sum(heard.end.usage.accepted for heard in (*greedy, *drawn))
    numbers = engine.statistics()
    assert 0 < told <= numbers["accepted_tokens"] < numbers["drafted_tokens"]


def test_doubtful_mtp_drafts_are_not_verified(make_engine, ask, prompts, plain):
    rates = []
    for threshold in (0.0, 0.3, 0.6):
        engine = make_engine(draft=threshold)
        engine.drafts.pays.wanted = lambda batch: True
        drawn = [ask(engine, prompt, temperature=1, seed=7).wait() for prompt in prompts]
        assert [without_end(heard.ids) for heard in drawn] == plain[1]
        numbers = engine.statistics()
        rates.append((numbers["drafted_tokens"], numbers["accepted_tokens"]))
    drafted, accepted = zip(*rates, strict=True)
    assert drafted[0] > drafted[1] > drafted[2]  # fewer, and of those more stand
    assert accepted[1] / drafted[1] > accepted[0] / drafted[0]


def test_block_drafts(make_engine, ask, dspark_folder):
    """A DSpark draft (random here) proposes, and nothing changes."""
    model = dsv4.load(dspark_folder)
    chosen = random.Random(9)
    prompts = [[chosen.randrange(4, 8000) for _ in range(n)] for n in (1, 7, 130, 300)]
    expected = [generate(model, p, temperature=1, seed=3, max_tokens=24).ids for p in prompts]
    engine = make_engine(model, draft=0.0)
    heard = [ask(engine, p, temperature=1, seed=3, max_tokens=24) for p in prompts]
    assert [without_end(each.wait().ids) for each in heard] == expected
    assert engine.statistics()["drafted_tokens"] > 0


def test_a_model_without_a_draft_says_so(make_engine, make_model):
    with pytest.raises(ValueError, match="no draft"):
        make_engine(make_model(num_nextn_predict_layers=0), draft=0.0)
