"""Whose prompts are read in a step."""

from types import SimpleNamespace

from dsv4.engine.scheduler import Scheduler


def reading(number, tokens):
    return SimpleNamespace(number=number, pending=tokens, state=SimpleNamespace(length=0), turn=0)


def steps(jobs, count):
    """Read for some steps: which jobs were read in each."""
    for _ in range(count):
        pieces = jobs.pieces()
        for running, read in pieces:
            running.pending -= read
            running.state.length += read
        yield [running.number for running, _ in pieces]


def test_short_prompts_are_read_in_the_order_in_which_they_came():
    jobs = Scheduler(None, None, 256)
    jobs.running = [reading(number, 128) for number in range(7)]
    assert list(steps(jobs, 5)) == [[0, 1], [2, 3], [4, 5], [6], []]


def test_long_prompts_take_turns_and_let_short_ones_in():
    jobs = Scheduler(None, None, 256)
    jobs.running = [reading(number, tokens) for number, tokens in enumerate((1024, 1024, 100, 30))]
    found = list(steps(jobs, 10))
    assert found[:4] == [[0], [1], [2, 3], [0]]
    assert found[4:] == [[1], [0], [1], [0], [1], []]
