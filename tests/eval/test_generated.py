"""Generated tests: the same for a seed, right for who answers them, as long as they say."""

from random import Random

import pytest

from dsv4.checkpoint.load import packaged
from dsv4.eval.generated import LENGTHS, first, tasks
from dsv4.eval.generated.recall import MRCR_CHANCE, _piece, multi_needle, needle
from dsv4.eval.grade import GRADERS, Answer, verdict_of
from dsv4.eval.inprocess import EngineSubject
from dsv4.eval.run import fitted
from dsv4.eval.subject import Ask, Score
from dsv4.tokenizer import Tokenizer


class Engine:
    """Nothing is asked of it."""

    context = 1 << 20


SHORT = [t for t in tasks() if not t.needs]


def answer(task, sample):
    """What who knows says."""
    if task.grader == "mrcr":
        return Answer(sample.target["code"] + sample.target["text"])
    if task.grader == "calls":
        import json

        return Answer("", [c | {"arguments": json.dumps(c["arguments"])} for c in sample.target])
    if task.grader == "state":
        return Answer("done", state=sample.target)
    if sample.pairs:
        scores = [Score(-float(n != sample.target), True, 1) for n in range(len(sample.pairs))]
        return Answer(scores=scores, nbytes=[1] * len(scores))
    return Answer(sample.target)


@pytest.mark.parametrize("task", SHORT, ids=lambda t: t.name)
def test_short(task):
    samples = list(task.samples(0))
    assert len({s.id for s in samples}) == len(samples) == 50
    assert [s.hash for s in samples] == [s.hash for s in task.samples(0)]
    assert {s.hash for s in samples} != {s.hash for s in task.samples(1)}
    assert task.grader in GRADERS and 0 <= task.chance < 1
    for sample in samples:
        assert verdict_of(task.grader, sample.target, answer(task, sample)).grade == "right"
        if not sample.pairs and task.grader != "calls":
            assert verdict_of(task.grader, sample.target, Answer(f"{sample.target}7")).score < 1


def test_lengths_to_a_million():
    assert next(iter(LENGTHS.values())) == 4096 and LENGTHS["1m"] == 1 << 20
    assert {t.needs for t in tasks() if t.needs} == set(LENGTHS.values())


@pytest.mark.parametrize("load", [Tokenizer.deepseek, lambda: Tokenizer.load(packaged())])
@pytest.mark.parametrize("name", ["needle_4k", "mrcr_4k", "needle_64k", "mrcr_64k"])
def test_as_long_as_they_say_in_the_subjects_tokens(load, name):
    """With the reply a prompt fits into the context that is needed, and fills it."""
    subject = EngineSubject(Engine(), load(), "counts", close=lambda: None)
    (task,) = (fitted(t, subject) for t in tasks() if t.name == name)
    for sample in first(task.samples(0), 2):
        count = subject.count(Ask(sample.prompt)) + task.max_tokens
        assert 0.96 * task.needs < count <= task.needs


def test_the_chance_of_another_reply():
    rng = Random(1)
    found = [
        verdict_of("mrcr", {"code": "c", "text": _piece(rng)}, Answer("c" + _piece(rng))).score
        for _ in range(2000)
    ]
    assert sum(found) / len(found) == pytest.approx(MRCR_CHANCE, abs=0.01)


def test_a_needle_at_every_depth():
    depths = []
    for sample in first(needle(0, 4096), 11):
        (message,) = sample.prompt
        at = message["content"].index(f"is {sample.target}.")
        depths.append(at / len(message["content"]))
    assert depths == sorted(depths) and depths[0] < 0.02 and depths[-1] > 0.9


def test_the_right_one_of_several_needles():
    for sample in first(multi_needle(0, 4096), 6):
        question = sample.prompt[-1]["content"]
        same = [m["content"] for m in sample.prompt[:-1] if m["role"] == "assistant"]
        kind = question.partition(" about a ")[0].split()[-1]
        topic = question.partition(" about a ")[2].partition(",")[0]
        asked = f"Write a {kind} about a {topic}."
        said = [
            r["content"]
            for q, r in zip(sample.prompt[:-1:2], sample.prompt[1:-1:2], strict=True)
            if q["content"] == asked
        ]
        nth = question.split(" the ")[1].split()[0]
        place = "first second third fourth fifth sixth seventh eighth".split().index(nth)
        assert sample.target["text"] == said[place] and len(set(said)) == len(said) >= 2
        assert sample.target["text"] in same
