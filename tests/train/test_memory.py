"""The estimate against what autograd really keeps, and the refusal that it is for."""

import pytest
import torch

from dsv4 import Transformer
from dsv4.train import memory
from dsv4.train.data import Batch
from dsv4.train.loss import losses
from dsv4.train.optim import optimizers
from dsv4.train.recipe import Recipe, Stage


def recipe(rows=8, seq_len=256, model="nano", config=None, **changes):
    stage = Stage(tokens=1, seq_len=seq_len, batch_tokens=rows * seq_len)
    values = {} if config is None else config.to_dict()
    return Recipe(model=model, config=values, stages=(stage,), **changes)


def kept_by_autograd(config, batch, seq_len, index=False):
    """Bytes of the distinct storages that the forward saves, parameters apart."""
    model = Transformer(config)
    model.initialize(0)
    wide = torch.randint(config.vocab_size, (batch, seq_len + 2))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        rows = Batch(wide[:, :-2], wide[:, 1:-1], wide[:, 1:-1], wide[:, 2:])
        found = losses(model, rows, index=index)
        loss = found.next_token + found.mtp + found.balance
        loss = loss + found.index if index else loss
    assert loss.isfinite()
    return sum(t.untyped_storage().nbytes() for at, t in saved.items() if at not in own)


@pytest.mark.parametrize(
    "changes, batch, seq_len",
    [({}, 4, 64), ({}, 2, 300), ({"num_attention_heads": 16, "moe_intermediate_size": 256}, 2, 64)],
)
def test_activations_are_estimated_from_above(make_config, changes, batch, seq_len):
    config = make_config(**changes)
    for index in (False, True):
        found = kept_by_autograd(config, batch, seq_len, index)
        estimate = 4 * memory.activations(config, batch, seq_len)
        assert found < estimate < 2 * found  # the backward's own tensors come on top


def test_micro_batches_and_recomputation_need_less(make_config):
    config = make_config()
    whole = memory.need(recipe(64, 64, config=config)).activations
    assert memory.need(recipe(64, 64, config=config, micro_tokens=256)).activations < whole / 8
    assert memory.need(recipe(64, 64, config=config, recompute=True)).activations < 0.7 * whole


@pytest.mark.parametrize("rule", ["muon", "adamw"])
def test_what_is_kept_is_counted_exactly(make_config, rule):
    config = make_config()
    found, model = memory.need(recipe(config=config, optimizer=rule)), Transformer(config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    movers = optimizers(model, config, lr=1e-3, rule=rule)
    for mover in movers:
        mover.step()
    moments = [
        t for o in movers for s in o.state.values() for t in s.values() if torch.is_tensor(t)
    ]
    assert found.weights == sum(t.nbytes for t in model.state_dict().values())
    assert found.gradients == sum(p.nbytes for p in model.parameters())
    assert found.optimizer == sum(t.nbytes for t in moments if t.dim())


@pytest.mark.parametrize("preset", ["flash", "pro"])
def test_a_preset_that_does_not_fit_is_refused_in_one_line(preset):
    with pytest.raises(ValueError, match=r"needs [\d,.]+ GiB.*this machine has .*model") as e:
        memory.check_memory(recipe(model=preset))
    assert "\n" not in str(e.value)
    parameters = {"flash": 291e9, "pro": 1.6e12}[preset]
    assert memory.need(recipe(model=preset)).kept > 0.95 * 12 * parameters


def test_a_batch_that_does_not_fit_is_refused_by_its_own_remedy(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 4 << 30)
    memory.check_memory(recipe())
    memory.check_memory(recipe(10**5, 256, micro_tokens=2048))
    for large in (recipe(10**9), recipe(64, 4096), recipe(4096, 256)):
        with pytest.raises(ValueError, match=r"activations .*a smaller micro_tokens or seq_len"):
            memory.check_memory(large)
