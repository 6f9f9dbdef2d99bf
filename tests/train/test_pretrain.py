"""The loop: it learns, it resumes as if it had never stopped, it refuses what is not finite."""

import json

import pytest
import torch
from torch.utils import _pytree as pytree

from dsv4.train.recipe import Text
from dsv4.train.state import TrainingError

STAGES = [
    {"attention": "dense", "tokens": 2 * 128},
    {"attention": "indexer", "tokens": 2 * 128, "lr": 1e-2},
    {"attention": "sparse", "tokens": 2 * 128, "seq_len": 64},
]


def weights(run):
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def rows(run):
    return [json.loads(line) for line in run.metrics.file.read_text().splitlines()]


def everything(run):
    """Weights, biases and moments as bytes."""
    state = [run.model.state_dict(), *(o.state_dict()["state"] for o in run.trainer.optimizers)]
    return repr(pytree.tree_map(lambda t: t.tolist() if torch.is_tensor(t) else t, state))


def test_it_learns_and_reports(run):
    one = run(steps=20)
    before = one.evaluate()["validation_loss"]
    said = []
    assert one.train(said.append)
    found = rows(one)
    assert len(found) == 20 and found[-1]["validation_loss"] < before - 0.4
    assert found[-1]["mtp_loss"] < found[0]["mtp_loss"]
    assert found[-1]["index_kl"] > 0 and "index_recall" not in found[-1]  # of its own choice: 1
    assert found[-1]["balance"] > 0 and found[-1]["expert_load"] >= 1
    assert all(row["mfu"] > 0 and row["memory"] > 1 << 26 for row in found)
    assert found[-1]["seconds_left"] == 0 and found[-1]["tokens"] == 20 * 128
    assert len(said) == 2 and said[-1].startswith("step 20  2.56K/2.56K tokens  loss ")


def test_resuming_in_every_stage_equals_never_having_stopped(run):
    whole = run("whole", stages=STAGES, save_every=100)
    assert whole.train(lambda line: None) and whole.step == 6
    switched = {row["step"]: row.get("bits_per_byte_switched") for row in rows(whole)}
    assert [step for step, bits in switched.items() if bits] == [4]  # indexer → sparse
    assert rows(whole)[1]["bits_per_byte"] == rows(whole)[3]["bits_per_byte"] != switched[4]
    for stop in (2, 3, 5):
        stopped = run(f"stopped {stop}", stages=STAGES, save_every=100)
        for _ in range(stop):
            stopped.train_step()
        stopped.save()
        torch.manual_seed(stop)  # the state has its own
        resumed = run(f"stopped {stop}", resume=True, stages=STAGES, save_every=100)
        assert resumed.step == stop and resumed.train(lambda line: None)
        assert everything(resumed) == everything(whole)
        assert resumed.feed.state_dict() == whole.feed.state_dict()


def test_each_stage_trains_what_it_is_for(run):
    one = run(stages=STAGES)
    indexers = [name for name in weights(one) if ".indexer." in name]
    assert indexers
    for stage, count in enumerate((2, 2, 2)):
        before = weights(one)
        for _ in range(count):
            row = one.train_step()
            assert row["stage"] == stage
            assert ("index_kl" in row) == (stage > 0)
        after = weights(one)
        moved = {name for name in after if not torch.equal(before[name], after[name])}
        if stage == 0:
            assert "embed.weight" in moved and not moved & set(indexers)
        elif stage == 1:
            assert moved == set(indexers)  # nor a router's bias
        else:
            assert {"embed.weight", *indexers} <= moved
    assert one.plan.ended(one.position)


def test_micro_batches_make_the_gradient_of_the_whole_batch(run):
    """Documents of other lengths in every row: each term has its own count."""
    found = {}
    for micro in (0, 64, 32):
        one = run(f"micro {micro}", micro_tokens=micro, clip=1e9, stages=STAGES[2:])
        gradients = {}
        for name, parameter in one.model.named_parameters():
            parameter.register_post_accumulate_grad_hook(
                lambda p, name=name, into=gradients: into.update({name: p.grad.clone()})
            )
        row = one.train_step()
        found[micro] = gradients, row, one.model.layers[1].ffn.gate.bias.clone()
    whole, row, bias = found[0]
    for micro in (64, 32):
        pieces, other, moved = found[micro]
        assert pieces.keys() == whole.keys() and torch.equal(moved, bias)
        for name in whole:
            scale = whole[name].abs().max()
            assert (pieces[name] - whole[name]).abs().max() < 2e-5 * scale + 1e-8, name
        for term in ("loss", "mtp_loss", "balance", "index_kl", "norm"):
            assert other[term] == pytest.approx(row[term], rel=1e-4)


def test_recomputation_changes_no_weight(run):
    ways = {}
    for recompute in (False, True):
        ways[recompute] = run(f"{recompute}", recompute=recompute, steps=3)
        ways[recompute].train(lambda line: None)
    first, second = weights(ways[False]), weights(ways[True])
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_metrics_after_a_resume_hold_every_step_once(run):
    stopped = run(save_every=4, steps=8)
    for _ in range(7):
        stopped.metrics.append(stopped.train_step())
        if stopped.step == 4:
            stopped.save()
    with stopped.metrics.file.open("a") as file:
        file.write('{"step": 8, "lo')  # killed in the middle of a line
    assert run(save_every=4, steps=8, resume=True).train(lambda line: None)
    assert [row["step"] for row in rows(stopped)] == list(range(1, 9))
    assert run(save_every=4, steps=8).metrics.file.read_text() == ""  # a run that begins anew


def test_a_step_that_is_not_finite_changes_nothing_and_names_the_parameter(run):
    one = run()
    one.train_step()
    one.save()
    file = one.checkpoints.file(1)
    before, saved = everything(one), file.read_bytes()
    weight = one.model.layers[1].ffn.gate.weight
    poison = weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(
        TrainingError, match=r"norm is .*gradients of layers.1.ffn.gate.weight"
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
    assert everything(one) == before and file.read_bytes() == saved
    with pytest.raises(TrainingError, match="validation loss is nan"):
        one.evaluate()


def test_a_gradient_that_overflows_only_in_its_norm_is_refused(run):
    one = run()
    one.model.norm.weight.register_hook(lambda gradient: torch.full_like(gradient, 3e38))
    with pytest.raises(TrainingError, match="norm is inf, all gradients are finite"):
        one.train_step()


def test_bad_batches_are_skipped_and_counted_where_the_recipe_says_so(run):
    one = run(steps=6, stability={"on_bad_batch": "skip", "most_skipped": 2})
    at = [1, 3]
    one.model.norm.weight.register_hook(
        lambda gradient: gradient * torch.nan if one.step in at else gradient
    )
    said = []
    assert one.train(said.append)
    found = rows(one)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row.get("event") for row in found] == [None, "skipped", None, "skipped", None, None]
    assert found[-1]["skipped"] == 2 and "gradients of" in found[1]["why"]
    assert sum("is skipped: the gradient's norm is nan" in line for line in said) == 2
    again = run("again", steps=6, stability={"on_bad_batch": "skip", "most_skipped": 2})
    again.model.norm.weight.register_hook(lambda gradient: gradient * torch.nan)
    before = everything(again)
    with pytest.raises(TrainingError, match=r"step 3: .*and 2 steps are skipped"):
        again.train(lambda line: None)
    assert everything(again) == before


def test_texts_are_evaluated_apart_and_together(run, folder, tmp_path):
    for name in ("prose", "words"):
        (tmp_path / name).symlink_to(folder)
    texts = tuple(Text(folder=str(tmp_path / name), weight=1.0) for name in ("prose", "words"))
    found = run(text=texts).evaluate()
    one = run("one").evaluate()
    for name in ("prose", "words"):
        assert found[f"bits_per_byte/{name}/words"] == one["bits_per_byte"]
    assert found["bits_per_byte"] == pytest.approx(one["bits_per_byte"])
    assert one.keys() == {"validation_loss", "bits_per_byte"}


@pytest.mark.parametrize("precision", ["bfloat16", "fp8", "fp4"])
def test_every_precision_learns_and_resumes(run, precision):
    """Near float32's loss, another weight for weight, and the same after a stop."""
    one = run(precision, precision=precision, steps=8)
    plain = run("plain", steps=8)
    assert one.train(lambda line: None) and plain.train(lambda line: None)
    gap = rows(one)[-1]["validation_loss"] - rows(plain)[-1]["validation_loss"]
    assert 0 < abs(gap) < 0.2
    stopped = run(f"{precision} stopped", precision=precision, steps=8)
    for _ in range(5):
        stopped.train_step()
    stopped.save()
    resumed = run(f"{precision} stopped", resume=True, precision=precision, steps=8)
    assert resumed.train(lambda line: None)
    assert everything(resumed) == everything(one)
