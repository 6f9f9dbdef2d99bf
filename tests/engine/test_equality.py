"""Greedy replies to fifty prompts are those of plain `generate`, bit for bit, whatever is on."""

import random
from collections import Counter

import pytest

import dsv4
from dsv4.engine.request import Job
from dsv4.generation import generate
from dsv4.sampling import Sampling

from .conftest import Heard

TOKENS = 10
LONGEST = [260, 300, 333, 383, 384, 385, 500, 520, 700]
LENGTHS = [*range(1, 30), 63, 64, 65, 100, 126, 127, 128, 129, 130, 200, 255, 256, 257, *LONGEST]


@pytest.fixture(scope="module")
def prompts():
    """Fifty; some begin with others, so that there is something to share."""
    chosen = random.Random(8)
    made = [[chosen.randrange(4, 8000) for _ in range(length)] for length in LENGTHS]
    made[-1][:600] = [*made[-2], *made[-1][:80]]
    made[40][:130] = made[39][:130]
    return made[:50]


@pytest.fixture(scope="module")
def plain(nano, prompts):
    """Each by itself, the end token left out."""
    return [generate(nano, prompt, temperature=0, max_tokens=TOKENS).ids for prompt in prompts]


def replies(engine, prompts, at_once):
    """The ids of all, so many running at a time."""
    said = []
    for first in range(0, len(prompts), at_once):
        some = [Heard() for _ in prompts[first : first + at_once]]
        for prompt, heard in zip(prompts[first:], some, strict=False):
            engine.submit(Job(prompt, Sampling(temperature=0, max_tokens=TOKENS)), heard)
        said += [heard.wait().ids for heard in some]
    return [ids[:-1] if ids[-1:] == [1] else ids for ids in said]


def scarce(make_engine, slots, pages):
    """Bytes that hold so many slots and pages."""
    probe = make_engine(slots=1).pool.stores
    return int((slots * probe.slot_bytes + pages * probe.page_bytes) / 0.75) + 1000


@pytest.mark.parametrize("at_once", [1, 7, 50])
def test_at_any_concurrency(make_engine, prompts, plain, at_once):
    """Twice: the second time from the prefix cache."""
    engine = make_engine(slots=at_once, memory=640 << 20)  # room for all states
    assert replies(engine, prompts, at_once) == plain
    assert replies(engine, prompts, at_once) == plain
    totals = engine.statistics()
    assert totals["cached_tokens"] > 0.49 * totals["prompt_tokens"]


def test_with_drafts(make_engine, prompts, plain):
    engine = make_engine(slots=50, draft=0.0)
    engine.drafts.pays.wanted = lambda batch: True
    assert replies(engine, prompts, 50) == plain
    assert engine.statistics()["accepted_tokens"] > 0


def test_with_block_drafts(make_engine, prompts, dspark_folder):
    model = dsv4.load(dspark_folder)
    expected = [generate(model, prompt, temperature=0, max_tokens=TOKENS).ids for prompt in prompts]
    engine = make_engine(model, slots=50, draft=0.0)
    engine.drafts.pays.wanted = lambda batch: True
    assert replies(engine, prompts, 50) == expected
    assert engine.statistics()["drafted_tokens"] > 500


def test_with_preemption(make_engine, prompts, plain):
    engine = make_engine(slots=12, memory=scarce(make_engine, 12, 14))
    order = sorted(range(50), key=lambda n: -len(prompts[n]))
    said = replies(engine, [prompts[n] for n in order], 50)
    assert said == [plain[n] for n in order]
    assert engine.statistics()["preempted"] > 0


def test_all_at_once(make_engine, prompts, plain, tmp_path):
    """Drafts, little memory, prefixes in memory and on disk, jobs that are cancelled; restarted."""
    memory = scarce(make_engine, 12, 16)
    totals = Counter()
    for order in (range(50), sorted(range(50), key=lambda n: -len(prompts[n]))):
        engine = make_engine(slots=12, memory=memory, folder=tmp_path, draft=0.0)
        engine.drafts.pays.wanted = lambda batch: True
        gone = [Heard() for _ in range(5)]
        for number, heard in enumerate(gone):
            sampling = Sampling(temperature=1, seed=number, max_tokens=300)
            engine.submit(Job(prompts[-number], sampling), heard).cancel()
        assert replies(engine, [prompts[n] for n in order], 50) == [plain[n] for n in order]
        totals.update(engine.statistics())
        engine.close(20)
        assert engine.pool.free_slots == 12
    for name in ("preempted", "cached_tokens", "accepted_tokens", "evicted_pages"):
        assert totals[name] > 0, name
