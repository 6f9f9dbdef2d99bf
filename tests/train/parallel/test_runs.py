"""Runs of several processes: the numbers of one, states that any other number goes on from."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
import torch

import dsv4
from dsv4.train.checkpoints import Checkpoints
from dsv4.train.parallel.start import checkpoints_of
from dsv4.train.pretrain import CHECKPOINTS, METRICS_FILE, Run
from dsv4.train.state import TrainingError
from dsv4.train.whole import WHOLE


def gone_on(recipe, out, whole, state=True):
    """A run that goes on from the newest state in `out`, or begins."""
    saved = checkpoints_of(whole, out / CHECKPOINTS)
    found = saved.newest(lambda line: None) if state and saved.steps() else None
    return Run(recipe, out, state=found, whole=whole, checkpoints=saved)


def trained(run, steps):
    """Losses of the steps up to one."""
    losses = []
    while run.step < steps:
        row = run.train_step()
        losses.append(row["loss"])
    run.save()
    return losses


def on_meshes(number, recipe, out, texts, steps):
    found = {}
    for text in texts:
        mesh = processes.mesh_of(text)
        run = gone_on(dataclasses.replace(recipe, mesh=text), out, mesh)
        found[text] = run.step, trained(run, run.step + steps), run.evaluate()["bits_per_byte"]
        mesh.settle(run.trainer.model)
    return found


STAGES = [
    {"tokens": 256, "attention": "dense"},
    {"tokens": 256, "attention": "indexer"},
    {"tokens": 512},
    {"tokens": 96},  # three rows, which two groups do not divide
]


def test_a_run_goes_on_with_any_number_of_processes(make_recipe, tmp_path):
    """Eight steps: two in one process, two on each of two meshes of four, the last in two and one;
    dense, the indexer alone, sparse; in micro-batches."""
    recipe = make_recipe(stages=STAGES, lr=1e-3, micro_tokens=64)
    whole = gone_on(recipe, tmp_path / "whole", WHOLE)
    expected = trained(whole, 9)
    bits = whole.evaluate()["bits_per_byte"]

    out, found = tmp_path / "run", []
    found += trained(gone_on(recipe, out, WHOLE), 2)
    meshes = ["dp=4 ep=2", "dp=2 cp=2 ep=2"]
    for number, told in enumerate(processes.run(4, on_meshes, recipe, out, meshes, 2)):
        assert [told[text][0] for text in meshes] == [2, 4]
        if number == 0:
            found += [loss for text in meshes for loss in told[text][1]]
    told = processes.run(2, on_meshes, recipe, out, ["dp=2"], 3)
    assert told[0] == told[1] and told[0]["dp=2"][0] == 6
    found += told[0]["dp=2"][1]
    assert abs(told[0]["dp=2"][2] - bits) < 1e-3
    last = gone_on(recipe, out, WHOLE)
    assert last.step == 9 and len(found) == 9
    for ours, theirs in zip(found, expected, strict=True):
        assert abs(ours - theirs) < 1e-3 * theirs
    for name, weight in whole.model.state_dict().items():
        assert (last.model.state_dict()[name] - weight).abs().max() < 0.05, name
    assert abs(last.evaluate()["bits_per_byte"] - bits) < 1e-3


def damaged(number, recipe, out):
    """What is said of states of which the newest is damaged, and all."""
    mesh, told = processes.mesh_of("dp=2"), []
    run = gone_on(dataclasses.replace(recipe, mesh="dp=2"), out, mesh)
    trained(run, 1)
    trained(run, 2)
    torch.distributed.barrier()
    saved = checkpoints_of(mesh, out / CHECKPOINTS)
    before = run.trainer.model.embed.weight.to_local().clone()
    if number == 0:
        file = sorted(saved.file(2).glob("*.distcp"))[-1]
        data = bytearray(file.read_bytes())
        data[random.Random(0).randrange(len(data))] ^= 1
        file.write_bytes(data)
    torch.distributed.barrier()
    state = saved.newest(told.append)
    assert state["position"]["step"] == 1 and len(told) == 1 and "fails its checksum" in told[0]
    run._restore(state)
    assert not torch.equal(run.trainer.model.embed.weight.to_local(), before)
    torch.distributed.barrier()
    half_deleted(number, saved)
    if number == 0:
        (saved.file(1) / "files.json").unlink()
    torch.distributed.barrier()
    with pytest.raises(TrainingError, match="damaged"):
        saved.newest(told.append)
    if number == 0:  # a folder that cannot be written: nothing that is there is lost
        shutil.rmtree(saved.file(1))
        saved.folder.rename(saved.folder.with_name("moved"))
        saved.folder.write_bytes(b"")
    torch.distributed.barrier()
    run.saved = None
    with pytest.raises(OSError, match="was not written"):
        run.save()
    return told


def half_deleted(number, saved):
    """A state of which any file is gone, or all, counts as damaged; one that is removed loses its
    name before its files, and what is left of it goes with the next."""
    whole, aside = saved.file(1), saved.folder / "aside"
    files = sorted(path.name for path in whole.iterdir())
    assert len(files) == 5  # run.pt, files.json, .metadata and two of shards
    torch.distributed.barrier()  # both have looked before a file goes
    for name in files:
        if number == 0:
            (whole / name).rename(aside)
        torch.distributed.barrier()
        with pytest.raises(TrainingError, match="damaged"):
            saved.newest(pytest.fail)
        torch.distributed.barrier()
        if number == 0:
            aside.rename(whole / name)
    torch.distributed.barrier()
    assert saved.newest(lambda line: None)["position"]["step"] == 1
    if number == 0:
        shutil.copytree(whole, saved.folder / "step-0000000007")
    torch.distributed.barrier()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed_in_the_middle)
        if number == 0:
            with pytest.raises(KeyboardInterrupt):
                Checkpoints(saved.folder).drop_after(6)
    torch.distributed.barrier()
    assert saved.steps() == [1, 2] and saved.newest(lambda line: None)["position"]["step"] == 1
    torch.distributed.barrier()
    saved.drop_after(6)
    assert not list(saved.folder.glob(".step-*"))
    torch.distributed.barrier()


def killed_in_the_middle(folder, ignore_errors=False):
    for file in sorted(Path(folder).glob("*"))[:2]:
        file.unlink()
        raise KeyboardInterrupt


def test_a_damaged_state_is_passed_over_in_all_processes(make_recipe, tmp_path):
    recipe = make_recipe(steps=2, save_every=1)
    first, second = processes.run(2, damaged, recipe, tmp_path / "run")
    assert first == second and not list(tmp_path.glob("run/**/.*.saving"))


# ---- spikes ---------------------------------------------------------------------------------

SOON = {"window": 4, "patience": 1, "margin": 1, "delay": 2, "anticipate": 3, "threshold": 20}


def spiked(number, recipe, out, texts):
    return {text: spiked_on(processes.mesh_of(text), recipe, out / text, text) for text in texts}


def spiked_on(mesh, recipe, out, text="1"):
    """A run whose rate is absurd at step 9, until it has gone back once; what it knows at its end,
    and what it said."""
    out.mkdir(parents=True, exist_ok=True)
    run, said = gone_on(dataclasses.replace(recipe, mesh=text), out, mesh), []
    lr = run.plan.lr
    run.plan.lr = lambda at: 3.0 if at.step == 8 and not run.history.rollbacks else lr(at)
    seen, step = [], run.trainer.step

    def stepping(batch, how, experts):
        seen.append((how.number, experts))
        return step(batch, how, experts)

    run.trainer.step = stepping
    assert run.train(said.append)
    if mesh is not WHOLE:
        mesh.settle(run.trainer.model)
    history = dataclasses.replace(run.history, seconds=0)
    return history, run.detector.state_dict(), run.ahead.state_dict(), seen, said


def test_a_spike_is_undone_alike_in_all_processes(make_recipe, tmp_path):
    """Seen, gone back from and routed ahead in both as in one; with the choices of the whole batch
    that were made ahead in each."""
    recipe, texts = make_recipe(steps=16, save_every=3, stability=SOON), ["dp=2 ep=2", "cp=2"]
    told = processes.run(2, spiked, recipe, tmp_path, texts)
    whole = spiked_on(WHOLE, recipe, tmp_path / "1")
    steps = [number for number, _ in whole[3]]
    assert whole[0].rollbacks == 1 and steps == [*range(10), *range(6, 16)]
    theirs = rows_of(tmp_path / "1")
    for text in texts:
        first, second = (each[text] for each in told)
        assert first[:2] == second[:2] and first[0] == whole[0]
        for one in (first, second):
            assert [number for number, _ in one[3]] == steps
            assert [seen is None for _, seen in one[3]] == [seen is None for _, seen in whole[3]]
            for (_, ours), (_, others) in zip(one[3], first[3], strict=True):
                for piece, other in zip(ours or [], others or [], strict=True):
                    assert all(map(torch.equal, piece, other)) and len(piece) == len(other)
        assert not second[4] and any("a spike above" in line for line in first[4])
        ours = rows_of(tmp_path / text)
        for name in ("step", "event", "from", "anticipate_until", "anticipated"):
            assert [row.get(name) for row in ours] == [row.get(name) for row in theirs]
        for one, other in zip(ours[:6], theirs[:6], strict=True):
            assert abs(one["loss"] - other["loss"]) < 2e-3 * other["loss"]


# ---- torchrun -----------------------------------------------------------------------------

RECIPE = """
from dsv4.train.recipe import Recipe
RECIPE = Recipe.from_dict({values!r})
"""


def torchrun(count, *words, **extra):
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), "--max-restarts", "2", "-m", "dsv4", "train"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([*command, *map(str, words)], env=environment, **extra)


def rows_of(out):
    """The rows of a run's metrics that are written whole."""
    file = out / METRICS_FILE
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def steps_of(out):
    return [row["step"] for row in rows_of(out)]


def workers(parent):
    """The processes that a torchrun started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"dsv4" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
def test_a_lost_process_is_replaced_and_the_run_comes_to_its_end(make_recipe, tmp_path):
    recipe = make_recipe(steps=12, save_every=2, evaluate_every=100, lr=1e-3, mesh="dp=4 ep=2")
    file, out = tmp_path / "recipe.py", tmp_path / "run"
    file.write_text(RECIPE.format(values=recipe.to_dict()))
    patience = time.monotonic() + 240
    with (tmp_path / "said").open("wb") as stream:
        started = torchrun(4, file, "--out", out, stdout=stream, stderr=stream)
        try:
            while not any(step >= 5 for step in steps_of(out)):
                assert started.poll() is None and time.monotonic() < patience
                time.sleep(0.05)
            os.kill(workers(started.pid)[2], signal.SIGKILL)
            started.wait(timeout=240)
        finally:
            started.terminate()
    said = (tmp_path / "said").read_text()
    assert started.returncode == 0, said[-6000:]
    assert steps_of(out) == list(range(1, 13))
    assert said.count("wrote ") == 1
    whole = gone_on(recipe, tmp_path / "whole", WHOLE)
    expected = trained(whole, 12)
    rows = [row["loss"] for row in rows_of(out)]
    for ours, theirs in zip(rows, expected, strict=True):
        assert abs(ours - theirs) < 2e-3 * theirs
    assert Checkpoints(out / CHECKPOINTS).steps()[-1] == 12
    weights = dsv4.load(out / "model").state_dict()
    assert weights.keys() == whole.model.state_dict().keys()


@pytest.mark.slow
def test_torchrun_that_is_asked_to_end_saves_and_the_run_goes_on(make_recipe, tmp_path):
    recipe = make_recipe(steps=12, save_every=100, evaluate_every=100, mesh="dp=2")
    file, out = tmp_path / "recipe.py", tmp_path / "run"
    file.write_text(RECIPE.format(values=recipe.to_dict()))
    patience = time.monotonic() + 240
    with (tmp_path / "said").open("wb") as stream:
        for number in (signal.SIGTERM, signal.SIGINT):
            done = steps_of(out)
            more = ["--resume"] if done else []
            started = torchrun(2, file, "--out", out, *more, stdout=stream, stderr=stream)
            try:
                while len(steps_of(out)) < len(done) + 2:
                    assert started.poll() is None and time.monotonic() < patience
                    time.sleep(0.02)
                started.send_signal(number)
                started.wait(timeout=120)
            finally:
                started.kill()
            assert started.returncode != 0
            assert Checkpoints(out / CHECKPOINTS).steps()[-1] == steps_of(out)[-1] < 12
        ended = torchrun(2, file, "--out", out, "--resume", stdout=stream, stderr=stream)
        assert ended.wait(timeout=240) == 0
    assert steps_of(out) == list(range(1, 13))
    said = (tmp_path / "said").read_text()
    assert said.count("stopped after step ") == said.count("finishing this step") == 2


@pytest.mark.parametrize("mesh, said", [("dp=3", "3 processes, 1 were started"), ("dp", "dp=2 ep")])
def test_a_mesh_of_another_size_is_refused_in_one_line(make_recipe, tmp_path, mesh, said):
    from dsv4.train.parallel.start import joined

    with pytest.raises(ValueError, match=said) as error:
        joined(mesh)
    assert "\n" not in str(error.value)
