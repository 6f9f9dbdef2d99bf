"""Recipes: what they may hold, how a word changes them, and those that come with dsv4."""

import dataclasses

import pytest

from dsv4 import recipes
from dsv4.train import memory
from dsv4.train.override import override
from dsv4.train.recipe import Recipe, Stability, Stage, Text
from dsv4.train.schedule import Plan

STAGE = Stage(tokens=1000, seq_len=10, batch_tokens=20)


@pytest.mark.parametrize(
    "make, name, values",
    [
        (lambda **k: Recipe(stages=(STAGE,), **k), name, values)
        for name, values in {
            "lr": (0, -1e-3, float("nan"), 1e6, "1"),
            "seed": (-1, 2**63, 1.5),
            "clip": (0, float("inf")),
            "warmup": (0, True),
            "save_every": (0, 10**30),
            "decay": (2.0, -0.1),
            "precision": ("fp9",),
            "sinks": (("paper",),),
        }.items()
    ]
    + [
        (lambda **k: dataclasses.replace(STAGE, **k), "tokens", (0, 1.0)),
        (lambda **k: dataclasses.replace(STAGE, **k), "attention", ("sparser",)),
        (lambda **k: Text(folder="x", **k), "weight", (0, -1.0)),
        (lambda **k: Stability(**k), "on_bad_batch", ("ignore",)),
        (lambda **k: Stability(**k), "delay", (0,)),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(make, name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"{name} = .*: must be"):
            make(**{name: value})


def test_recipes_are_checked_against_their_model(make_recipe):
    with pytest.raises(ValueError, match="seq_len = 5000: this model's context ends at 4096"):
        make_recipe(seq_len=5000).check()
    with pytest.raises(ValueError, match="seq_len = 3: must be at least 4"):
        make_recipe(seq_len=3).check()
    with pytest.raises(ValueError, match="batch_tokens = 16: must hold a row of seq_len = 32"):
        make_recipe(stages=[{"batch_tokens": 16}]).check()
    with pytest.raises(ValueError, match="mesh '2': must be words"):
        make_recipe(mesh="2")
    ratios = {"compress_ratios": [0, 0, 0]}
    with pytest.raises(ValueError, match="no layer with an indexer"):
        make_recipe(stages=[{"attention": "indexer"}], config=ratios).check()
    with pytest.raises(ValueError, match=r"model = 'nanoo': must be flash.*: did you mean nano"):
        make_recipe(model="nanoo").check()
    assert make_recipe(seq_len=7).untrained() == [8] and not make_recipe(seq_len=8).untrained()
    with pytest.raises(ValueError, match="belong together"):
        make_recipe(ramp_from=3)


def test_words_change_a_recipe():
    words = "lr=3e-3 tokens=2e6 recompute=yes sinks=trackio,wandb stages.0.seq_len=512"
    words += (
        " stages.batch_tokens=8_192 stability.window=64 config.hidden_size=128 stages.2.lr=none"
    )
    found = override(recipes.find("nano"), words.split())
    assert (found.lr, found.tokens, found.recompute) == (3e-3, 2_000_000, True)
    assert found.sinks == ("trackio", "wandb") and found.stability.window == 64
    assert [stage.seq_len for stage in found.stages] == [512, 1024, 1024, 1024]
    assert {stage.batch_tokens for stage in found.stages} == {8192}
    assert found.stages[2].lr is None and found.model_config.hidden_size == 128
    assert Recipe.from_dict(found.to_dict()) == found
    found = override(found, ["text=a/b,c", "text.weight=2", "text.1.epochs=3", "text.0.weight=1"])
    assert found.text == (Text(folder="a/b", weight=1.0), Text(folder="c", weight=2.0, epochs=3.0))
    assert override(found, ["text=none", "sinks=none"]) == dataclasses.replace(
        found, text=(), sinks=()
    )


@pytest.mark.parametrize(
    "word, what",
    [
        ("lr", "'lr': must be key=value"),
        ("lrr=1", "lrr: there is no such setting: did you mean lr?"),
        ("stability.windw=1", "did you mean stability.window?"),
        ("stages.0.token=1", "did you mean stages.0.tokens?"),
        ("stages.token=1", "did you mean stages.tokens?"),
        ("seq_len=512", "did you mean stages.seq_len?"),
        ("batch-tokens=512", "did you mean stages.batch_tokens?"),
        ("hiden_size=1", "did you mean config.hidden_size?"),
        ("Window=1", "did you mean stability.window?"),
        ("tokenz=1", "did you mean tokens?"),
        ("steps=500", "did you mean tokens?"),
        ("batch=500", "did you mean stages.batch_tokens?"),
        ("preset=pro", "did you mean model?"),
        ("xyzzy=1", "xyzzy: there is no such setting"),
        ("stages.9.tokens=1", "the recipe has 4 of them, counted from 0"),
        ("stages=1", "name one of its settings"),
        ("stability=1", "name one of its settings: stability.on_bad_batch"),
        ("text.0.weight=1", "text.0.weight: the recipe has none of them: give the whole"),
        ("config.hiden_size=1", "did you mean config.hidden_size?"),
        ("lr.x=1", "lr holds nothing named x"),
        ("lr=fast", "lr = 'fast': must be a number"),
        ("lr=7", "lr = 7.0: must be a number above 0 to 1"),
        ("seed=1.5", "seed = '1.5': must be a whole number"),
        ("seed=1e400", "seed = '1e400': must be a whole number"),
        ("recompute=perhaps", "recompute = 'perhaps': must be true or false"),
        ("tokens=", "tokens has no value: write one behind tokens="),
        ("stages.0.tokens=", "stages.0.tokens has no value"),
        *((f"{key}= ", f"{key} has no value") for key in ("text", "name", "sinks", "config.x")),
        ("stages.0.tokens=many", "stages.0.tokens = 'many': must be a whole number"),
        ("stages.0.tokens=0", "stages.0.tokens = 0: must be a whole number, 1 to"),
        ("stages.batch-tokens=-1", "stages.batch-tokens = -1: must be a whole number, 1 to"),
        ("stability.window=-1", "stability.window = -1: must be a whole number, 0 to"),
        ("stages.3.attention=sparce", "stages.3.attention = 'sparce': must be dense or indexer or"),
    ],
)
def test_words_that_mean_nothing_are_refused(word, what):
    with pytest.raises(ValueError) as error:
        override(recipes.find("nano"), [word])
    assert what in str(error.value) and "\n" not in str(error.value)


def test_the_recipes_that_come_with_dsv4():
    for name in recipes.NAMES:
        recipe = recipes.find(name)
        recipe.check()
        assert recipe.name == name and Recipe.from_dict(recipe.to_dict()) == recipe
    flash, pro = recipes.find("flash"), recipes.find("pro")
    for recipe, tokens, batch, peak in ((flash, 32e12, 75.5e6, 2.7e-4), (pro, 33e12, 94.4e6, 2e-4)):
        plan = Plan(recipe)
        assert plan.tokens == pytest.approx(tokens, rel=1e-3)
        assert recipe.stages[-1].batch_tokens == pytest.approx(batch, rel=1e-3)
        assert recipe.lr == peak and recipe.floor == 0.1 and recipe.warmup == 2000
        assert [stage.seq_len >> 10 for stage in plan.stages] == [4, 16, 64, 64, 1024]
        assert [s.attention for s in plan.stages] == ["dense", "dense", "indexer"] + ["sparse"] * 2
        assert all(stage.batch_tokens % stage.seq_len == 0 for stage in plan.stages)
        with pytest.raises(ValueError, match=r"needs [\d,.]+ GiB.*choose a smaller model") as error:
            memory.check_memory(recipe)
        assert "\n" not in str(error.value)
    assert sum(s.tokens for s in flash.stages if s.attention == "dense") == 10**12
    assert (flash.mtp_weight, flash.mtp_weight_at_end, flash.bias_step) == (0.3, 0.1, 1e-3)


def test_a_recipe_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(
        "import dataclasses\nfrom dsv4.recipes.nano import RECIPE as NANO\n"
        'RECIPE = dataclasses.replace(NANO, name="mine", lr=1e-3)\n'
    )
    assert recipes.find(str(file)).lr == 1e-3
    file.write_text("RECIPE = 3\n")
    with pytest.raises(ValueError, match=r"mine.py: must hold RECIPE = Recipe"):
        recipes.find(str(file))
    file.write_text("\nfrom dsv4.recipes.nano import RECIPE\nRECIPE = RECIPE.fast\n")
    for name in (str(file), "mine.py"):
        with pytest.raises(ValueError, match=r"mine.py, line 3: AttributeError: .*fast"):
            recipes.find(name)
    file.write_text("RECIPE = (\n")
    with pytest.raises(ValueError, match=r"^[^:]*mine.py, line 1: [^(]*'\(' was never closed$"):
        recipes.find(str(file))
    with pytest.raises(FileNotFoundError, match=r"there is no recipe .*other.py: nano, flash"):
        recipes.find(str(tmp_path / "other.py"))
    for word, meant in (("mien.py", "mine.py"), ("nano.py", "nano"), ("flash.pyy.py", "flash")):
        with pytest.raises(FileNotFoundError, match=rf"NAME.py: did you mean {meant}\?$"):
            recipes.find(word)
    with pytest.raises(ValueError, match=r"there is no recipe 'nan0'.*did you mean nano\?"):
        recipes.find("nan0")
