"""A run of some minutes ends near them, on machines that slow down, speed up, stop and go on."""

import time
from itertools import pairwise

import pytest

from dsv4.train.clock import Clock
from dsv4.train.pretrain import Run
from dsv4.train.step import Trainer

STAGES = [
    {"tokens": 2000 * 128, "attention": "dense"},
    {"tokens": 500 * 128, "attention": "indexer", "lr": 1e-3},
    {"tokens": 2500 * 128, "seq_len": 64},
]
EVALUATION = 2.0  # seconds


class Quiet:
    """A `Progress` that prints notes."""

    note = staticmethod(print)

    def show(self, row, tokens):
        pass

    def close(self):
        pass


QUIET = Quiet()


@pytest.fixture
def machine(run, monkeypatch):
    """Runs whose steps take the seconds that `pace` says at a time, and compute nothing."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Trainer, "begin", lambda self: setattr(self, "optimizers", []))
    monkeypatch.setattr(Run, "save", lambda self: None)

    def begin(pace, minutes=10, name="run", **changes):
        one = run(name, minutes=minutes, warmup=9, stages=STAGES, **changes)
        one.rates = []

        def step():
            how = one.plan.step(one.position)
            now[0] += how.tokens / 128 * pace(now[0])
            one.rates.append(how.lr if how.stage.lr is None else 0)
            one.position = one.plan.after(one.position)
            row = {"step": one.step, "tokens": one.position.tokens, "stage": how.stage_number}
            return row | {"loss": 1.0, "lr": how.lr, "tokens_per_s": 1, "mfu": 0, "memory": 0}

        def evaluate(number, dense=None):
            now[0] += EVALUATION
            one.clock.evaluation = EVALUATION
            return {"validation_loss": 1.0, "bits_per_byte": 1.0}

        one.train_step, one.evaluate = step, evaluate
        return one

    begin.now = now
    return begin


@pytest.mark.parametrize(
    "pace",
    [
        lambda now: 0.1,  # 508 seconds as planned: it is stretched
        lambda now: 0.12,
        lambda now: 0.5,  # five times slower than was measured
        lambda now: 0.02,
        lambda now: 0.1 if now < 200 else 0.3,
        lambda now: 0.1 if now < 450 else 0.4,  # while the rate falls
        lambda now: 0.1 + now / 1000,
        lambda now: 0.1 if int(now / 50) % 2 else 0.2,
    ],
)
def test_a_run_ends_near_its_minutes(machine, pace, capsys):
    one = machine(pace)
    assert one.train(QUIET)
    assert abs(machine.now[0] - 600) < 0.06 * 600
    assert one.plan.ended(one.position) and one.position.tokens == one.plan.tokens
    falling = [rate for rate in one.rates if rate][9:]
    assert all(b <= a for a, b in pairwise(falling))
    assert falling[-1] < 0.2 * falling[0]  # the schedule comes to its end
    assert "are what fits into 10 min, not" in capsys.readouterr().out


def test_a_slow_first_step_says_nothing_of_the_others():
    clock = Clock(60, spent=33)
    for seconds in (31, 1, 1):
        clock.took(seconds, 10)
    assert clock.factor(270, 0, 0) == 1  # 27 seconds are left for what takes as long


def test_speed_that_comes_back_while_the_rate_falls_ends_it_early(machine):
    one = machine(lambda now: 0.4 if now < 500 else 0.1)
    assert one.train(QUIET)
    assert 500 < machine.now[0] < 580


def test_time_that_is_up_leaves_a_row_of_each_stage(machine):
    one = machine(lambda now: 700.0)
    assert one.train(QUIET)
    assert [stage.tokens for stage in one.plan.stages] == [128 + 32, 32, 64]


def test_evaluations_are_a_tenth_of_the_training_at_most(run):
    one = run("short", minutes=1, steps=20)
    assert one.recipe.evaluate_tokens == 256 and one.plan.recipe is one.recipe  # as it is asked
    long = run("long", minutes=1, steps=20, evaluate_tokens=1 << 16)
    assert long.recipe.evaluate_tokens == round(0.3 * 20 * 128)
    often = run("often", minutes=1, steps=20, evaluate_tokens=1 << 16, evaluate_every=4)
    assert often.recipe.evaluate_tokens == round(0.3 * 20 * 128 / 6)
    assert run("free", steps=20, evaluate_tokens=1 << 16).recipe.evaluate_tokens == 1 << 16
