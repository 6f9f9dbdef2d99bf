"""Spikes are seen, undone and got over; anticipatory routing is on for a while, and exact."""

import json
import random
import statistics

import pytest
import torch

from dsv4.train.anticipate import Ahead
from dsv4.train.recipe import Stability
from dsv4.train.spike import SpikeDetector
from dsv4.train.state import TrainingError

SOON = {"window": 4, "patience": 1, "margin": 1, "delay": 2, "anticipate": 3, "threshold": 20}


def test_the_detector_is_robust():
    detector = SpikeDetector(Stability(window=50, threshold=6, rise=0.1, patience=2))
    rng = random.Random(0)
    noise = [3 + rng.gauss(0, 0.05) for _ in range(200)]
    assert not any(detector.observe(loss) for loss in noise)
    middle = statistics.median(noise[-50:])
    assert detector.bound == pytest.approx(
        middle + 6 * 1.4826 * statistics.median(abs(loss - middle) for loss in noise[-50:])
    )
    assert not detector.observe(9.0)  # one batch is none
    assert not detector.observe(3.0) and not detector.observe(9.0)
    other = SpikeDetector(detector.how)
    other.load_state_dict(json.loads(json.dumps(detector.state_dict())))
    assert detector.observe(9.0) and other.observe(9.0)
    assert detector.bound < 4  # what was a spike is not of the window
    assert not any(SpikeDetector(Stability(window=0)).observe(loss) for loss in (1, 1, 1e9))
    young = SpikeDetector(Stability(window=50, patience=1))
    assert not any(young.observe(loss) for loss in [3.0] * 49 + [1e9])
    falling = SpikeDetector(Stability(window=20, patience=1))
    assert not any(falling.observe(9 * 0.97**step) for step in range(100))


def test_experts_are_those_of_the_weights_before(run):
    """With delay 2 the step at t uses the choices that the weights of step t − 2 make."""
    one = run(steps=7, stability=SOON)
    one.ahead.until = 5
    seen, weights = [], []
    step, route = one.trainer.step, one.trainer.route

    def stepping(batch, how, experts):
        seen.append((batch, how, experts))
        weights.append({n: t.clone() for n, t in one.model.state_dict().items()})
        return step(batch, how, experts)

    one.trainer.step = stepping
    assert one.train(lambda line: None)
    one.trainer.step = step
    ids = [batch.ids for batch, _, _ in seen]
    plain = run("plain", steps=7)
    assert all(torch.equal(plain.feed.next(4, 32).ids, each) for each in ids)
    for number, (batch, how, experts) in enumerate(seen):
        if number > 6:
            assert experts is None
            continue
        one.model.load_state_dict(weights[max(0, number - 2)])
        wanted = route(batch, how)
        assert all(map(torch.equal, experts[0], wanted[0]))
    rows = [json.loads(line) for line in one.metrics.file.read_text().splitlines()]
    assert [row.get("anticipated", False) for row in rows] == [True] * 7
    differs = [e for n, (b, h, e) in enumerate(seen) if n > 1 and fresh(one, weights[n], b, h, e)]
    assert differs  # old choices are not those of the step itself


def fresh(one, weights, batch, how, experts):
    """Whether the step's own weights would choose otherwise."""
    one.model.load_state_dict(weights)
    return not all(map(torch.equal, experts[0], one.trainer.route(batch, how)[0]))


def test_told_experts_that_are_its_own_change_no_step(run):
    told, free = run("told"), run("free")
    how = free.plan.step(free.position)
    batch = free.feed.next(4, 32)
    free.trainer.step(batch, how)
    told.trainer.step(batch, how, told.trainer.route(batch, how))
    first, second = told.model.state_dict(), free.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def jumping(run):
    """A run whose learning rate is absurd at step 9, until it has gone back once."""

    def make(*words, **changes):
        stability = {**SOON, **changes.pop("stability", {})}
        one = run(*words, **{"steps": 16, "save_every": 3, "stability": stability, **changes})
        lr = one.plan.lr

        def rate(at):
            return 3.0 if at.step == 8 and not one.history.rollbacks else lr(at)

        one.plan.lr = rate
        return one

    return make


def rows(run):
    return [json.loads(line) for line in run.metrics.file.read_text().splitlines()]


def test_a_spike_is_undone_and_got_over(jumping):
    one, said = jumping(), []
    assert one.train(said.append)
    found = rows(one)
    (event,) = (row for row in found if "event" in row)
    assert event["event"] == "rollback" and event["from"] == 10 and event["loss"] > event["bound"]
    assert event["step"] == 6 and event["anticipate_until"] == 13  # saved at 6; 9 is too near
    steps = [row for row in found if "event" not in row]
    assert [row["step"] for row in steps] == list(range(1, 17))
    ahead = [row["step"] for row in steps if row.get("anticipated")]
    assert ahead == list(range(7, 16))  # until step 13, and what was fetched by then
    assert [row.get("rollbacks", 0) for row in steps] == [0] * 6 + [1] * 10
    assert max(row["loss"] for row in steps) < event["bound"]
    assert any("a spike above" in line and "back to step 6" in line for line in said)
    assert one.checkpoints.steps() == [9, 12, 15, 16]


def test_a_run_with_a_spike_resumes_to_the_bit(jumping):
    """Stopped before, after and while experts are chosen ahead, also between regular states."""
    whole = jumping("whole")
    assert whole.train(lambda line: None)
    for stop in (8, 11):
        stopped = jumping(f"stopped {stop}")
        while stopped.step < stop or not stopped.history.rollbacks:
            stopped.train_step()
            if stopped.step % 3 == 0:
                stopped.save()
        stopped.save()
        resumed = jumping(f"stopped {stop}", True)
        assert resumed.step == stopped.step and resumed.train(lambda line: None)
        first, second = whole.model.state_dict(), resumed.model.state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert resumed.history.rollbacks == 1
        assert resumed.feed.state_dict() == whole.feed.state_dict()


def test_a_batch_that_is_a_spike_again_is_passed_over(run, monkeypatch):
    one = run(steps=12, save_every=3, stability={**SOON, "threshold": 3, "rise": 0.05})
    bad = None
    fetch = one.feed.next

    def poisoned(*what):
        nonlocal bad
        batch = fetch(*what)
        if bad is None and one.step == 8 and not one.history.rollbacks:
            bad = batch.ids.clone()
        if bad is not None and torch.equal(batch.ids, bad):
            batch.targets[batch.targets >= 0] = 399  # a token that no text has
        return batch

    monkeypatch.setattr(one.feed, "next", poisoned)
    said = []
    assert one.train(said.append)
    events = [row for row in rows(one) if "event" in row]
    assert one.history.rollbacks == 2 and [row["from"] for row in events][-1] == 9
    assert one.ahead.skipped == {8}
    assert any("are passed over (steps 9 to 9)" in line for line in said)
    assert [row["step"] for row in rows(one) if "event" not in row] == list(range(1, 13))


def test_a_spike_before_anything_is_saved_goes_back_to_the_beginning(jumping):
    one = jumping(save_every=100, steps=11)
    for _ in range(10):
        one.train_step()
    assert one.history.rollbacks == 1 and one.step == 0 and one.saved == 0
    plain = jumping("plain", save_every=100, steps=11)
    first, second = one.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_spikes_too_often_stops(jumping):
    one = jumping(stability={"most_rollbacks": 0})
    with pytest.raises(TrainingError, match=r"step 10: the loss is .* a spike above .* 0 rollback"):
        one.train(lambda line: None)
    assert one.saved == 9


def test_positions_ahead_follow_the_stages(run):
    """Batches that are fetched early have the rows of their own stage."""
    stages = [{"tokens": 256}, {"tokens": 256, "seq_len": 64}]
    one = run(stages=stages, stability=SOON)
    one.ahead.until = 10
    shapes = []
    while not one.plan.ended(one.position):
        how = one.plan.step(one.position)
        batch, experts = one.ahead.next(one.position, one.trainer.route)
        shapes.append(batch.ids.shape)
        assert batch.ids.shape == (how.rows, how.stage.seq_len) and experts is not None
        one.position = one.plan.after(one.position)
    assert isinstance(one.ahead, Ahead) and len(set(shapes)) == 2
