"""A run at work is exported while it removes its states: a whole state, or one line."""

import processes
import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from typer.testing import CliRunner

from dsv4.cli import app, runs
from dsv4.train import state as states
from dsv4.train.checkpoints import TRIES
from dsv4.train.parallel import saved
from dsv4.train.parallel.start import checkpoints_of
from dsv4.train.pretrain import CHECKPOINTS, Run


@pytest.fixture
def at_work(make_recipe, tmp_path):
    """A run over a mesh (of this process alone) that has saved its first step, and keeps one."""
    with processes.joined(0, 1, tmp_path / "first"):
        mesh, out = processes.mesh_of("dp=1"), tmp_path / "run"
        out.mkdir()
        shared = checkpoints_of(mesh, out / CHECKPOINTS)
        run = Run(make_recipe(save_every=1, keep=1), out, whole=mesh, checkpoints=shared)
        go_on(run)
        yield run


def go_on(run):
    """A step more, saved: the state before it is removed."""
    run.train_step()
    run.save()
    assert run.checkpoints.steps() == [run.step]


def exported(run, path):
    return CliRunner().invoke(app, ["export", str(run.out), str(path)])


def beside(monkeypatch, module, name, *meanwhile, after=False):
    """Has something happen before (or after) each of the first calls of a function."""
    whole, rest = getattr(module, name), list(meanwhile)

    def call(*args):
        if rest and not after:
            rest.pop(0)()
        found = whole(*args)
        if rest and after:
            rest.pop(0)()
        return found

    monkeypatch.setattr(module, name, call)


def weights(run):
    return {name: tensor.clone() for name, tensor in run.whole.weights(run.model)}


@pytest.mark.parametrize(
    "module, name, after",
    [
        (saved, "_read", False),  # every file is gone when the tensors are read
        (saved, "_read", True),  # all were read, and are gone
        (saved, "_sum", False),  # gone while they are summed
        (saved, "check", True),  # between the sums and the tensors
    ],
)
def test_a_state_that_is_removed_while_it_is_read(
    at_work, tmp_path, monkeypatch, module, name, after
):
    beside(monkeypatch, module, name, lambda: go_on(at_work), after=after)
    done = exported(at_work, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("\n") == 1, done.stderr
    assert "step-0000000001 was removed or written anew while it was read; taking the newest" in (
        done.stderr
    )
    assert f"wrote {tmp_path / 'out'}, the state after step 2" in done.stdout
    assert_whole(tmp_path / "out", weights(at_work), at_work, tmp_path)


def assert_whole(found, tensors, run, tmp_path):
    """The files are those of the run's own weights."""
    expected = runs.export(run.out, run.recipe, tensors, tmp_path / "expected")
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in found.iterdir()) == names and len(names) >= 4
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def test_a_state_that_is_written_anew_is_not_mixed_with_the_old_one(at_work, tmp_path, monkeypatch):
    """As after a rollback: the same step again, with other weights, when metadata were read."""
    before = weights(at_work)

    def again():
        with torch.no_grad():
            for parameter in at_work.model.parameters():
                parameter.mul_(1.5)
        at_work.saved = None
        at_work.save()
        assert at_work.checkpoints.steps() == [1]

    beside(monkeypatch, saved, "_read", again)
    done = exported(at_work, tmp_path / "out")
    assert done.exit_code == 0 and "written anew" in done.stderr, done.output
    now = weights(at_work)
    assert not torch.equal(now["embed.weight"], before["embed.weight"])
    assert_whole(tmp_path / "out", now, at_work, tmp_path)


def test_what_is_removed_each_time_is_said_in_one_line(at_work, tmp_path, monkeypatch):
    beside(monkeypatch, saved, "_read", *[lambda: go_on(at_work)] * TRIES)
    done = exported(at_work, tmp_path / "out")
    assert done.exit_code == 2 and not (tmp_path / "out").exists()
    assert done.stderr.splitlines()[-1].startswith("dsv4: ") and done.stderr.count("\n") == TRIES
    assert "the run saves faster than a state is read: do it again when it" in done.stderr


def test_a_state_that_cannot_be_read_is_said_in_one_line(at_work, tmp_path, monkeypatch):
    def broken():
        raise CheckpointException("the disk\nis old", {})

    beside(monkeypatch, saved, "_read", broken)
    done = exported(at_work, tmp_path / "out")
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and "cannot be read" in done.stderr


@pytest.mark.parametrize("after", [False, True])
def test_a_file_of_one_process_that_is_removed(run, tmp_path, monkeypatch, after):
    one = run(save_every=1, keep=1)
    go_on(one)
    beside(monkeypatch, states, "_read_file", lambda: go_on(one), after=after)
    done = exported(one, tmp_path / "out")
    assert done.exit_code == 0, done.output
    step = 1 if after else 2  # one that is in memory is whole
    assert f"the state after step {step}" in done.stdout and done.stderr.count("\n") == step - 1
    if not after:
        assert_whole(tmp_path / "out", weights(one), one, tmp_path)
