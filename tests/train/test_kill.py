"""SIGKILL at any moment: the run goes on, and its weights are those of one that was not killed."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from dsv4.train.checkpoints import Checkpoints

SCRIPT = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from dsv4.train.checkpoints import Checkpoints
from dsv4.train.pretrain import CHECKPOINTS, Run
from dsv4.train.recipe import Recipe

torch.set_num_threads(1)
recipe, folder = json.loads(sys.argv[1]), Path(sys.argv[2])

def train(out, place, left, begun):
    whole = getattr(os, place)

    def counted(*args, **more):
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*args, **more)

    setattr(os, place, counted)
    saved = Checkpoints(out / CHECKPOINTS)
    state = saved.newest(print) if saved.steps() else None
    run = Run(Recipe.from_dict(recipe), out, state=state)
    os.write(begun, b"%d" % run.step)
    run.train(lambda line: None)
    torch.save(run.model.state_dict(), out / "weights.pt")

rng = random.Random(0)
for line in sys.stdin:  # nothing was computed here, so that it can be forked
    name, place, left = line.split()
    out = folder / name
    out.mkdir(exist_ok=True)
    read, write = os.pipe()
    if not (child := os.fork()):
        train(out, "fsync" if place == "random" else place, int(left), write)
        os._exit(0)
    os.close(write)
    begun = os.read(read, 9).decode()
    if place == "random":
        time.sleep(rng.random() / 2)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, begun]), flush=True)
"""


@pytest.fixture
def begin(make_recipe, tmp_path):
    """Runs in `tmp_path`, each a process that is killed at the `left`-th call of os.`place`."""
    recipe = make_recipe(steps=8, save_every=2, keep=2, evaluate_every=100)
    words = [sys.executable, "-c", SCRIPT, json.dumps(recipe.to_dict()), str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes) as process:

        def one(name, place="fsync", left=0):
            process.stdin.write(f"{name} {place} {left}\n")
            return json.loads(process.stdout.readline())

        yield one
        process.stdin.close()


def test_killed_at_random_moments_and_in_the_middle_of_writes(begin, tmp_path):
    """fsync: a file is written and not in its place; unlink: what is old is to be removed."""
    assert begin("whole") == [0, "0"]
    out, kills = tmp_path / "killed", []
    for place, left in (("fsync", 1), ("fsync", 5), ("unlink", 3), ("random", 0)):
        kills.append(begin("killed", place, left))
        states = Checkpoints(out / "checkpoints")
        if states.steps():
            states.newest(pytest.fail)  # whole, whenever it was killed
    assert sum(status == -signal.SIGKILL for status, _ in kills) >= 3, kills
    assert [step for _, step in kills[:3]] == ["0", "0", "2"]
    assert begin("killed")[0] == 0
    assert (out / "weights.pt").read_bytes() == (tmp_path / "whole/weights.pt").read_bytes()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))


def test_a_corrupt_last_state_falls_back_to_the_one_before(run):
    one = run(steps=6, save_every=2)
    assert one.train(lambda line: None) and one.checkpoints.steps() == [2, 4, 6]
    last = one.checkpoints.file(6)
    damaged = last.read_bytes()[:-999]
    last.write_bytes(damaged)
    said = []
    again = run(resume=True, say=said.append, steps=6, save_every=2)
    assert again.step == 4 and len(said) == 1
    assert "step-0000000006.pt is damaged" in said[0]
    assert "going on from step-0000000004.pt, the one before" in said[0]
    assert last.read_bytes() == damaged  # until the run writes it anew
    assert again.train(lambda line: None) and again.checkpoints.steps() == [2, 4, 6]
    assert again.checkpoints.newest(pytest.fail)["position"]["step"] == 6


def test_a_state_of_another_form_is_no_obstacle(run):
    """What is left of a folder of several processes, at the step of a file; a whole file counts."""
    one = run(steps=4, save_every=2)
    assert one.train(lambda line: None)
    folder = one.checkpoints.folder
    for step in (2, 4):
        (folder / f"step-{step:010}").mkdir()
    assert one.checkpoints.newest(pytest.fail)["position"]["step"] == 4
    one.checkpoints.file(4).write_bytes(b"")
    said = []
    again = run(resume=True, say=said.append, steps=4, save_every=2)
    assert again.step == 2 and len(said) == 1 and "step-0000000004.pt is damaged" in said[0]
    (folder / ".step-0000000003.saving").mkdir()  # of killed processes
    (folder / ".step-0000000003.pt.part").touch()
    assert again.train(lambda line: None)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["step-0000000002", "step-0000000002.pt", "step-0000000004.pt"]


def test_old_states_are_removed_and_regular_ones_stay(tmp_path):
    states = Checkpoints(tmp_path / "states", keep=2, every=10)
    of = SimpleNamespace(model=torch.nn.Linear(2, 2), optimizers=[])
    for step in (10, 20, 25, 28, 30, 40, 43):
        states.save(step, {"step": step}, of)
    assert states.steps() == [30, 40, 43]
    states.drop_after(30)
    assert states.steps() == [30] and states.before(5, print) is None
    (tmp_path / "states/notes.txt").touch()
    states.save(40, {"step": 40}, of)
    assert states.steps() == [30, 40] and (tmp_path / "states/notes.txt").exists()


def test_a_full_disk_ends_the_run_in_one_line_and_keeps_what_is_saved(run, monkeypatch):
    one = run(steps=6, save_every=2)
    save, full = one.checkpoints.save, OSError(28, "No space left on device")

    def saving(step, *more):
        if step == 4:
            monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(full))
        save(step, *more)

    one.checkpoints.save = saving
    with pytest.raises(OSError, match=r"step-0000000004.pt could not be written \(No space left"):
        one.train(lambda line: None)
    monkeypatch.undo()
    assert one.checkpoints.steps() == [2] and "after step 2 is kept" in one.kept
    again = run(resume=True, steps=6, save_every=2)
    assert again.step == 2 and again.train(lambda line: None)
