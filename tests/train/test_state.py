"""A state is there whole or not at all, and only this run's own, undamaged one is taken."""

import pickle
import random
import signal
import subprocess
import sys
import zipfile

import pytest
import torch

from dsv4.atomic import WriteError
from dsv4.train import state as states
from dsv4.train.recipe import Recipe
from dsv4.train.state import TrainingError, check_same, load_state, save_state

FULL = """
import resource, signal, sys, torch
from pathlib import Path
from dsv4.train.state import save_state
for room in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), resource.RLIM_INFINITY))
    try:
        save_state(Path(sys.argv[1]), {"model": {"w": torch.zeros(20_000)}})
    except OSError as error:
        print(error)
"""


@pytest.fixture
def stopped(run):
    one = run()
    one.train_step()
    one.save()
    return one


def state_file(one):
    return one.checkpoints.file(1)


def test_a_damaged_state_is_refused_and_left_as_it_is(run, stopped):
    file, rng = state_file(stopped), random.Random(0)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # inside a weight
    cuts = [whole[: rng.randrange(len(whole))] for _ in range(5)]
    for damaged in (b"", bytes(len(whole)), rng.randbytes(5000), bytes(flipped), *cuts):
        file.write_bytes(damaged)
        with pytest.raises(
            TrainingError, match=r"step-0000000001.pt is damaged or no state"
        ) as error:
            run(resume=True)
        assert "\n" not in str(error.value) and file.read_bytes() == damaged
    file.unlink()
    with pytest.raises(TrainingError, match=r"there is no state in .*start without --resume"):
        run(resume=True)
    file.mkdir()
    with pytest.raises(TrainingError, match="no regular file"):
        run(resume=True)


class Bomb:
    def __reduce__(self):
        return (print, ("it was run",))


def test_a_state_that_would_run_code_is_not_unpickled(run, stopped, capsys):
    torch.save({name: Bomb() for name in states.FIELDS}, state_file(stopped))
    with pytest.raises(TrainingError, match="damaged or no state"):
        run(resume=True)
    state_file(stopped).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(TrainingError, match="damaged or no state"):
        run(resume=True)
    with zipfile.ZipFile(state_file(stopped), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(TrainingError, match="compressed"):
        run(resume=True)
    assert "it was run" not in capsys.readouterr().out


def test_another_runs_state_is_refused_by_what_differs(run, stopped, make_recipe):
    file = state_file(stopped)
    state = load_state(file)
    for changes, what in (
        ({"lr": 2e-2}, r"other settings: lr was 0.01, is 0.02: repeat"),
        ({"rows": 8}, r"stages.0.batch_tokens was 128, is 256"),
        ({"stability": {"delay": 3}}, r"stability.delay was 4, is 3"),
        ({"config": {"hidden_size": 128}}, r"hidden_size was 32, is 128"),
    ):
        with pytest.raises(TrainingError, match=what):
            check_same(file, state, make_recipe(**changes))
    check_same(file, state, make_recipe(keep=9, name="other"))
    for change, what in (
        ({"position": state["position"] | {"step": -1}}, "position"),
        ({"model": {}}, "hc_head_fn is missing"),
        ({"model": state["model"] | {"more": torch.ones(1)}}, "more is unknown"),
        ({"model": state["model"] | {"norm.weight": torch.ones(3)}}, r"norm.weight is \[3\]"),
        ({"optimizers": state["optimizers"][:1]}, "it has 1 optimizers"),
        ({"optimizers": state["optimizers"][::-1]}, "other parameters"),
        ({"ahead": "12"}, "ahead is str"),
    ):
        torch.save(state | change, file)
        with pytest.raises(TrainingError, match=what):
            run(resume=True)


def test_settings_that_came_later_have_their_defaults(run, stopped, make_recipe):
    """A state of before a setting was there goes on with its default, and with no other value."""
    file, recipe = state_file(stopped), make_recipe()
    assert check_same(file, load_state(file), recipe) == {}
    state = load_state(file)
    older = state["recipe"]
    del older["optimizer"], older["stability"]["margin"], older["stages"][0]["least"]
    del state["config"]["initializer_range"], state["history"]["rollbacks"]
    for group in (g for kept in state["optimizers"] for g in kept["param_groups"]):
        del group["weight_decay"]
    torch.save(state, file)
    added = {"optimizer": "muon", "stages.0.least": 0, "stability.margin": 10}
    assert check_same(file, load_state(file), recipe) == added
    assert Recipe.from_dict(older) == recipe
    resumed = run(resume=True)
    assert resumed.train_step()["step"] == 2 and resumed.history.rollbacks == 0
    for changes, what in (
        ({"optimizer": "adamw"}, "optimizer was muon, is adamw"),
        ({"stability": {"margin": 3}}, "stability.margin was 10, is 3"),
        ({"stages": [{"least": 9}]}, "stages.0.least was 0, is 9"),
        ({"config": {"initializer_range": 0.5}}, "initializer_range was 0.02, is 0.5"),
    ):
        with pytest.raises(TrainingError, match=f"other settings: {what}: repeat"):
            check_same(file, load_state(file), make_recipe(**changes))
    del older["stages"][0]["tokens"]
    with pytest.raises(ValueError, match=r"^stages.0.tokens is missing$"):
        Recipe.from_dict(older)


@pytest.mark.parametrize(
    "place, what",
    [
        ((), "sounds: unknown here"),
        (("recipe",), "sounds: there is no such setting in this version of dsv4"),
        (("recipe", "stability"), "stability.sounds: there is no such setting"),
        (("recipe", "stages", 0), "stages.0.sounds: there is no such setting"),
        (("config",), "config.sounds: there is no such setting"),
        (("history",), "history.sounds: unknown here"),
        (("position",), "position.sounds: unknown here"),
        (("spikes",), "spikes.sounds: unknown here"),
        (("ahead",), "ahead.sounds: unknown here"),
    ],
)
def test_a_state_of_a_later_version_is_named(stopped, make_recipe, place, what):
    file = state_file(stopped)
    state = inner = load_state(file)
    for name in place:
        inner = inner[name]
    inner["sounds"] = 3
    torch.save(state, file)
    with pytest.raises(TrainingError, match="was written by another version of dsv4 ") as error:
        check_same(file, load_state(file), make_recipe())
    assert what in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).endswith("go on with that version, or train into another folder")


def test_a_full_disk_leaves_the_state_before(tmp_path):
    file = tmp_path / "state.pt"
    file.write_bytes(b"before")
    rooms = ["0", "1", "700", "50000", "80500"]
    command = [sys.executable, "-c", FULL, str(file), *rooms]
    done = subprocess.run(command, capture_output=True, text=True)
    said = f"{file} could not be written (File too large); what was there before is kept"
    assert done.stdout.splitlines() == [said] * len(rooms), done.stderr
    assert file.read_bytes() == b"before" and list(tmp_path.iterdir()) == [file]


def test_a_kill_while_writing_leaves_the_state_before(tmp_path):
    file = tmp_path / "state.pt"
    save_state(file, {"step": 1})
    before = file.read_bytes()
    script = FULL.replace("for room", "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\nfor room")
    done = subprocess.run([sys.executable, "-c", script, str(file), "5000"], capture_output=True)
    assert done.returncode == -signal.SIGXFSZ  # in the middle of a write, with nothing caught
    assert file.read_bytes() == before and len(list(tmp_path.iterdir())) == 2
    save_state(file, {"step": 2})  # what the killed one left is in nobody's way
    assert list(tmp_path.iterdir()) == [file]
    assert torch.load(file, weights_only=True) == {"step": 2}


def test_a_state_that_cannot_be_written_does_not_count_as_saved(run, stopped):
    stopped.train_step()
    part = stopped.checkpoints.file(2)
    part.with_name(f".{part.name}.part").mkdir()  # nothing can be written beside the state
    before = state_file(stopped).read_bytes()
    with pytest.raises(WriteError, match=r"step-0000000002.pt could not be written"):
        stopped.save()
    assert state_file(stopped).read_bytes() == before
    assert "after step 1 is kept" in stopped.kept
