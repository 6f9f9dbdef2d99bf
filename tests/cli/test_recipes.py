"""`dsv4 train RECIPE`, `--minutes`, `--dry`, `dsv4 export` and `dsv4 plot`."""

import dataclasses
import json
import tempfile
from pathlib import Path

import pytest
import torch
from train.conftest import config_file, documents, folder, make_recipe  # noqa: F401
from typer.testing import CliRunner

import dsv4
from dsv4.cli import app
from dsv4.train import dial
from dsv4.train.recipe import Recipe
from dsv4.train.schedule import Plan


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def assert_refused(done, *what):
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
    assert all(text in done.stderr for text in what), done.stderr


@pytest.fixture
def recipe_file(make_recipe, tmp_path):  # noqa: F811
    """A recipe of one's own, as a file."""

    def write(**changes):
        values = make_recipe(name="mine", **changes).to_dict()
        file = tmp_path / "mine.py"
        file.write_text(
            f"from dsv4.train.recipe import Recipe\nRECIPE = Recipe.from_dict({values!r})\n"
        )
        return file

    return write


def test_a_recipe_from_its_file_to_a_model_and_a_picture(recipe_file, tmp_path):
    file, out = recipe_file(steps=4, save_every=2), tmp_path / "run"
    done = call("train", file, "lr=5e-3", "evaluate_every=2", "--out", out)
    assert done.exit_code == 0, done.output
    assert "step 4  512/512 tokens" in done.output and "lr " in done.output
    model = dsv4.load(out / "model")
    assert model.config.hidden_size == 32
    again = call("train", file, "lr=5e-3", "evaluate_every=2", "--out", out)
    assert_refused(again, f"{out} holds a run: --resume continues it")
    other = call("train", file, "lr=6e-3", "evaluate_every=2", "--out", out, "--resume")
    assert_refused(other, "lr was 0.005, is 0.006: repeat them")
    assert call("train", "--resume", "--out", out).exit_code == 0  # as it was begun
    newest = out / "checkpoints/step-0000000004.pt"
    state = torch.load(newest, weights_only=True)
    del state["recipe"]["optimizer"]
    torch.save(state, newest)
    done = call("train", "--resume", "--out", out)
    assert done.exit_code == 0
    assert f"note: {newest} is older than some settings" in done.stderr
    assert "which have their defaults: optimizer = muon" in done.stderr

    copy = tmp_path / "copy"
    done = call("export", out, copy)
    assert done.exit_code == 0 and "the state after step 4" in done.output
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json"):
        assert (copy / name).read_bytes() == (out / "model" / name).read_bytes()
    newest.write_bytes(newest.read_bytes()[:-1])
    done = call("export", out, tmp_path / "older")
    assert done.exit_code == 0 and "the state after step 2" in done.output
    assert "going on from step-0000000002.pt" in done.stderr and newest.exists()
    assert_refused(call("export", tmp_path / "none"), "holds no state of a run")

    picture = tmp_path / "curves.png"
    assert call("plot", out, out, "--out", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert_refused(call("plot", tmp_path / "none"), "holds no metrics.jsonl")


def test_a_run_at_work_is_exported(make_recipe, tmp_path):  # noqa: F811
    from dsv4.train.pretrain import Run

    out, exported = tmp_path / "run", []
    out.mkdir()
    run = Run(make_recipe(steps=5, save_every=2, keep=1, evaluate_every=1), out)

    def at_work(line):
        if run.step in (3, 5):
            done = call("export", out, tmp_path / f"model {run.step}")
            exported.append(done.output)

    assert run.train(at_work)
    assert ["after step 2" in exported[0], "after step 4" in exported[1]] == [True, True]
    assert dsv4.load(tmp_path / "model 3").config.hidden_size == 32


def test_a_plan_is_printed_and_nothing_is_made(recipe_file, tmp_path):
    stages = [{"attention": "dense", "tokens": 256}, {"attention": "indexer", "tokens": 128}]
    done = call("train", recipe_file(stages=stages), "--dry", "--out", tmp_path / "run")
    assert done.exit_code == 0 and not (tmp_path / "run").exists()
    lines = done.output.splitlines()
    assert lines[0].startswith("mine: ") and "parameters" in lines[0]
    rows = [line.split()[:6] for line in lines if line[:2] in ("0 ", "1 ")]
    assert rows == [
        ["0", "dense", "32", "2", "256", "128"],
        ["1", "indexer", "32", "1", "128", "128"],
    ]
    assert any(line.startswith("embed.weight") and "AdamW" in line for line in lines)
    assert any(line.startswith("memory ") and "optimizer" in line for line in lines)
    large = call("train", "flash", "--dry")
    assert large.exit_code == 0 and "step" in large.output and "training needs" in large.stderr


@pytest.mark.parametrize(
    "words, what",
    [
        ("nano lrr=1", "lrr: there is no such setting: did you mean lr?"),
        ("nano lr=7", "lr = 7.0: must be a number above 0 to 1"),
        ("nan0 lr=1e-3", "there is no recipe 'nan0': nano, flash, pro"),
        ("nano mesh=2x4", "mesh '2x4': must be words as in"),
        ("nano --lr 1e-3", "--lr belongs to dsv4 train FOLDER: here it is lr=…"),
        ("nano --preset pro", "here it is model=…"),
        ("nano stages.seq_len=2", "seq_len = 2: must be at least 4"),
        ("nano sinks=paper", "sinks = 'paper': must be trackio or tensorboard or wandb"),
        ("flash", "training needs"),
        ("pro", "training needs"),
        ("other.py", "there is no recipe other.py"),
        ("", "name a recipe or a folder, or give --minutes"),
        ("nanoo", "neither a recipe nor a folder nanoo: did you mean nano? (for a new folder of"),
        ("NANO", "did you mean nano?"),
        ("flahs --steps 3", "did you mean flash? (for a new folder of that name: mkdir flahs)"),
        ("flash-0731", "flash-0731 is a preset, no recipe: dsv4 train FOLDER --preset flash-0731"),
        ("nanoo.py", "there is no recipe nanoo.py: nano, flash, pro, or a file NAME.py: did you"),
        ("nanoo --dry", "did you mean nano?"),
        ("run --preset flahs", "model = 'flahs': must be flash, pro"),
        ("run --preset flahs", "or a config.json: did you mean flash?"),
        ("--preset flash", "--preset flash needs a folder to train into: dsv4 train FOLDER --pres"),
        ("--seq-len 64", "--seq-len 64 needs a folder to train into"),
        ("lr=1e-3 nano seed=1", "the recipe comes first: dsv4 train nano lr=1e-3 seed=1"),
        ("nano stages.0.tokens=", "stages.0.tokens has no value"),
        ("folder --out other", "--out belongs to a recipe's run"),
        ("nano mesh=dp=2 --minutes 5", "minutes are measured in one process, mesh is 'dp=2'"),
        ("nano mesh=dp=2", "2 processes, 1 were started: torchrun"),
        ("nano --minutes 5 --steps 3", "--steps and --minutes exclude each other"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(call("train", *words.split()), what)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_a_name_like_a_recipes_is_one_where_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from dsv4.recipes.nano import RECIPE\n")
    assert_refused(call("train", "mine"), "did you mean mine.py?")
    for name in ("mine", "nanoo", "run"):
        (tmp_path / name).mkdir(exist_ok=True)
        done = call("train", name, "--steps", "3", "--dry")
        assert done.exit_code == 0 and done.output.startswith(f"{name}: "), done.output


def test_minutes_choose_the_run_by_the_rule(monkeypatch):
    """Width by tokens a parameter, batch and rate by the law, at a speed that is given."""
    monkeypatch.setattr(dial, "measured_speed", lambda recipe: 50e9)
    said = []
    short, long = (dial.dialled(minutes, 3, said.append) for minutes in (2, 600))
    assert said[0].startswith("width 64: ") and said[-1].startswith("chosen: width ")
    assert short.model_config.hidden_size < long.model_config.hidden_size
    assert short.lr > long.lr and short.seed == 3
    for recipe, minutes in ((short, 2), (long, 600)):
        config, plan = recipe.model_config, Plan(recipe)
        recipe.check()
        work = minutes * 60 * 50e9
        per_token = dial.flops_per_token(config, dial.SEQ_LEN)
        assert plan.tokens == pytest.approx(work / per_token, rel=0.05)
        enough = dial.tokens_a_parameter(config) * dial.active_parameters(config)
        assert plan.tokens > 0.95 * enough or config.hidden_size == dial.WIDTHS[0]
        assert recipe.lr == pytest.approx(0.3118 * work**-0.125, rel=0.06)
        batch = recipe.stages[0].batch_tokens
        assert batch == pytest.approx(0.2920 * work**0.3271, abs=dial.SEQ_LEN)
        wider = next((w for w in dial.WIDTHS if w > config.hidden_size), None)
        if wider:
            other = dataclasses.replace(recipe, config=dial.shape(wider)).model_config
            called = dial.tokens_a_parameter(other) * dial.active_parameters(other)
            assert work / dial.flops_per_token(other, dial.SEQ_LEN) < called


def test_minutes_of_a_recipe_stretch_its_stages(make_recipe, monkeypatch):  # noqa: F811
    monkeypatch.setattr(dial, "measured_speed", lambda recipe: 1e9)
    recipe = make_recipe(stages=[{"tokens": 1280}, {"tokens": 2560, "seq_len": 64}])
    stretched = Plan(dial.timed(recipe, 1.0))
    assert stretched.recipe.minutes == 1.0 and stretched.recipe.warmup == recipe.warmup
    assert dial.timed(recipe, 0.01).warmup == 1
    config = recipe.model_config
    work = sum(s.tokens * dial.flops_per_token(config, s.seq_len) for s in stretched.stages)
    assert work == pytest.approx(60e9, rel=0.02)


def test_the_speed_is_measured_and_the_run_follows(make_recipe, tmp_path, recipe_file):  # noqa: F811
    assert 1e6 < dial.measured_speed(make_recipe()) < 1e13
    out = tmp_path / "run"
    done = call("train", recipe_file(), "--minutes", "0.02", "--out", out)
    assert done.exit_code == 0 and "0.02 minutes are about" in done.output
    tokens = json.loads(Path(out / "metrics.jsonl").read_text().splitlines()[-1])["tokens"]
    assert tokens % 32 == 0
    done = call("train", recipe_file(), "--minutes", "9", "--out", out, "--resume")
    assert done.exit_code == 0 and "was begun for 0.02 minutes, which it keeps" in done.stderr
    assert isinstance(make_recipe(), Recipe)


def test_a_folder_that_cannot_be_written_any_more_loses_nothing(recipe_file, tmp_path, monkeypatch):
    out = tmp_path / "run"
    words = ["train", recipe_file(steps=4, save_every=2, keep=1), "--out", out]
    unlink = Path.unlink

    def refused(*args, **_):
        raise PermissionError(13, "Permission denied")

    def kept(path, **more):
        return refused() if path.name == "step-0000000002.pt" else unlink(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", kept)
        done = call(*words)
    assert_refused(done, "step-0000000002.pt could not be removed (Permission denied)", "--resume")
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    assert {"step-0000000002.pt", "step-0000000004.pt"} < {path.name for path in before}
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", refused)
        done = call(*words, "--resume")
    assert_refused(done, f"{out} cannot hold a run (Permission denied): name another folder")
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    assert "the state after step 4" in call("export", out, tmp_path / "model").output
    assert call(*words, "--resume").exit_code == 0


def test_two_runs_in_one_folder_are_refused(recipe_file, tmp_path):
    from dsv4.checkpoint.folder import claimed

    out = tmp_path / "run"
    with claimed(out, "training run"):
        done = call("train", recipe_file(steps=2), "--out", out)
    assert_refused(done, f"another training run is at work in {out}")
