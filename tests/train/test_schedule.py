"""What each step is: by stage, ramp, warm-up and decay."""

import math
from itertools import pairwise

import pytest

from dsv4.train.recipe import Recipe, Stage
from dsv4.train.schedule import Plan, Position


def plan(*stages, **changes):
    made = (Stage(**stage) for stage in stages)
    return Plan(Recipe(stages=tuple(made), **{"lr": 1.0, "warmup": 4, "decay": 0.5, **changes}))


def test_warm_up_constant_cosine():
    steps = [step for _, step in plan({"tokens": 2000, "seq_len": 10, "batch_tokens": 20}).steps()]
    assert len(steps) == 100 and [step.lr for step in steps[:5]] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert {step.lr for step in steps[4:51]} == {1.0}
    for number in (51, 75, 99):
        cosine = 0.5 * (1 + math.cos(math.pi * (number - 50) / 50))
        assert steps[number].lr == pytest.approx(0.1 + 0.9 * cosine)
    assert [step.mtp_weight for step in steps[48:52]] == [0.3, 0.3, 0.1, 0.1]


def test_stages_follow_one_another_and_the_indexers_rate_is_its_own():
    dense = {"tokens": 95, "seq_len": 10, "batch_tokens": 40, "attention": "dense"}
    indexer = {"tokens": 40, "seq_len": 20, "batch_tokens": 20, "attention": "indexer", "lr": 0.5}
    sparse = {"tokens": 100, "seq_len": 50, "batch_tokens": 70}
    found = list(plan(dense, indexer, sparse, decay=0).steps())
    steps = [step for _, step in found]
    assert [(step.stage_number, step.rows) for step in steps] == [
        *((0, 4), (0, 4), (0, 2)),  # a stage ends with whole rows
        *((1, 1), (1, 1)),
        *((2, 1), (2, 1)),
    ]
    assert [step.dense for step in steps] == [True] * 5 + [False] * 2
    assert [step.indexer_only for step in steps] == [False] * 3 + [True] * 2 + [False] * 2
    assert [step.lr for step in steps[3:]] == [0.5, 0.5, 1.0, 1.0]
    assert [at.tokens for at, _ in found] == [0, 40, 80, 100, 120, 140, 190]


def test_the_batch_grows_with_the_tokens():
    stage = {"tokens": 2000, "seq_len": 10, "batch_tokens": 100}
    found = list(plan(stage, ramp_from=20, ramp_tokens=800).steps())
    for at, step in found[:-1]:
        wanted = 20 + 80 * at.tokens / 800 if at.tokens < 800 else 100
        assert step.rows == int(wanted) // 10
    rows = [step.rows for _, step in found[:-1]]
    assert rows == sorted(rows) and rows[0] == 2 and rows[-1] == 10


def test_tokens_stretch_the_stages():
    stages = [{"tokens": n, "seq_len": 10, "batch_tokens": 20} for n in (100, 300)]
    found = plan(*stages, tokens=4000, ramp_from=10, ramp_tokens=50)
    assert [stage.tokens for stage in found.stages] == [1000, 3000]
    assert found.tokens == 4000 and found.ramp_tokens == 500


def test_the_plan_needs_no_history():
    found = plan({"tokens": 500, "seq_len": 10, "batch_tokens": 30})
    places = [at for at, _ in found.steps()]
    for before, after in pairwise(places):
        assert found.after(before) == after
    assert found.ended(found.after(places[-1])) and not found.ended(Position())
