"""Data, and the loop: it learns, it resumes as if it had never stopped, it refuses nonsense."""

import json

import pytest
import torch
from torch.utils import _pytree as pytree

from dsv4.tokenizer import Tokenizer
from dsv4.train.settings import Settings
from dsv4.train.state import TrainingError


def test_the_tokenizer_has_the_releases_control_tokens(folder):
    tokenizer, released = Tokenizer.load(folder), Tokenizer.deepseek()
    assert tokenizer.vocab_size == 400
    for token in ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"):
        assert tokenizer.token_id(token) == released.token_id(token)
    for token in ("<｜User｜>", "</think>", "｜DSML｜", "<｜read_url｜>"):
        assert tokenizer.encode(token, special=True) == [tokenizer.token_id(token)]


def weights(run):
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def test_it_learns_and_reports(run):
    one = run(steps=30)
    before = one.evaluate()["validation_loss"]
    assert one.train()
    rows = [json.loads(line) for line in (one.out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 30 and rows[-1]["validation_loss"] < before - 0.5
    assert rows[-1]["mtp_loss"] < rows[0]["mtp_loss"]


def test_resuming_equals_never_having_stopped(run):
    whole, stopped = run("whole"), run("stopped")
    assert whole.train()
    for _ in range(5):
        stopped.train_step()
    stopped.save()
    resumed = run("stopped", resume=True)
    assert resumed.step == 5 and resumed.train()
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_metrics_after_a_resume_hold_every_step_once(run):
    stopped = run(save_every=4, steps=8)
    for _ in range(7):
        stopped.metrics.append(stopped.train_step())
        if stopped.step == 4:
            stopped.save()
    with stopped.metrics.file.open("a") as file:
        file.write('{"step": 8, "lo')  # killed in the middle of a line
    assert run(save_every=4, steps=8, resume=True).train()
    rows = [json.loads(line) for line in stopped.metrics.file.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert run(save_every=4, steps=8).metrics.file.read_text() == ""  # a run that begins anew


def test_a_step_that_is_not_finite_changes_nothing_and_names_the_parameter(run):
    one = run()
    one.train_step()
    one.save()
    before, saved = everything(one), one.state_file.read_bytes()
    weight = one.model.layers[2].ffn.gate.weight
    poison = weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(
        TrainingError, match=r"norm is .*gradients of layers.2.ffn.gate.weight"
    ) as e:
        one.train_step()
    assert "\n" not in str(e.value) and "after step 1 is kept" in str(e.value)
    assert one.step == 1 and everything(one) == before and weight.grad is None
    poison.remove()
    one.train_step()
    assert one.step == 2
    with torch.no_grad():
        one.model.layers[1].attn_norm.weight[0] = torch.nan
    before = everything(one)
    with pytest.raises(TrainingError, match=r"loss is nan, first in .* layers.1.attn_norm.weight"):
        one.train_step()
    assert everything(one) == before and one.state_file.read_bytes() == saved
    with pytest.raises(TrainingError, match="validation loss is nan"):
        one.evaluate()


def everything(run):
    """Weights, biases and moments as bytes."""
    state = [run.model.state_dict(), *(o.state_dict()["state"] for o in run.optimizers)]
    return repr(pytree.tree_map(lambda t: t.tolist() if torch.is_tensor(t) else t, state))


def test_a_gradient_that_overflows_only_in_its_norm_is_refused(run):
    one = run()
    one.model.norm.weight.register_hook(lambda gradient: torch.full_like(gradient, 3e38))
    with pytest.raises(TrainingError, match="norm is inf, all gradients are finite"):
        one.train_step()


@pytest.mark.parametrize(
    "name, value",
    [
        *(("minutes", m) for m in (float("inf"), float("nan"), -1, 1e300, "5")),
        *(("steps", s) for s in (-1, 1.5, 10**30, True)),
        *(("batch", b) for b in (0, -4, 2.0)),
        *(("lr", r) for r in (0, -1e-3, float("nan"), 1e6)),
        *(("seed", s) for s in (-1, 2**63)),
        *(("seq_len", n) for n in (0, -1)),
        *(("clip", 0), ("warmup", 0), ("save_every", 0), ("decay", 2.0)),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"{name} = .*: must be a"):
        Settings(**{name: value})


def test_settings_are_checked_against_the_model(make_config):
    with pytest.raises(ValueError, match="steps or minutes"):
        Settings(minutes=0)
    config = make_config(max_position_embeddings=512)
    with pytest.raises(ValueError, match="seq_len = 513: this model's context ends at 512"):
        Settings(seq_len=513).check(config)
    with pytest.raises(ValueError, match="seq_len = 3: must be at least 4"):
        Settings(seq_len=3).check(config)
    Settings(seq_len=512).check(config)
    assert Settings(seq_len=64).untrained(config) == [128]
