"""The estimate against what autograd really keeps, and the refusal that it is for."""

import pytest
import torch

from dsv4 import Config, Transformer
from dsv4.train import memory
from dsv4.train.data import Batch
from dsv4.train.loss import losses
from dsv4.train.optim import optimizers
from dsv4.train.settings import Settings


def kept_by_autograd(config, batch, seq_len):
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
        found = losses(model, rows)
        loss = found.next_token + found.mtp + found.balance
    assert loss.isfinite()
    return sum(t.untyped_storage().nbytes() for at, t in saved.items() if at not in own)


@pytest.mark.parametrize(
    "changes, batch, seq_len",
    [({}, 4, 64), ({}, 2, 300), ({"num_attention_heads": 16, "moe_intermediate_size": 256}, 2, 64)],
)
def test_activations_are_estimated_from_above(make_config, changes, batch, seq_len):
    config = make_config(**changes)
    found = kept_by_autograd(config, batch, seq_len)
    estimate = 4 * memory.activations(config, Settings(batch=batch, seq_len=seq_len))
    assert found < estimate < 1.6 * found  # the backward's own tensors come on top


def test_what_is_kept_is_counted_exactly(make_config):
    config = make_config()
    found, model = memory.need(config, Settings()), Transformer(config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    muon, adam = optimizers(model, config, lr=1e-3)
    muon.step()
    adam.step()
    moments = [
        t for o in (muon, adam) for s in o.state.values() for t in s.values() if torch.is_tensor(t)
    ]
    assert found.weights == sum(t.nbytes for t in model.state_dict().values())
    assert found.gradients == sum(p.nbytes for p in model.parameters())
    assert found.optimizer == sum(t.nbytes for t in moments if t.dim())


@pytest.mark.parametrize("preset", ["flash", "pro"])
def test_a_preset_that_does_not_fit_is_refused_in_one_line(preset):
    config = Config.from_preset(preset)
    with pytest.raises(ValueError, match=r"needs [\d,.]+ GiB.*this machine has .*--preset") as e:
        memory.check_memory(config, Settings())
    assert "\n" not in str(e.value)
    parameters = {"flash": 291e9, "pro": 1.6e12}[preset]
    assert memory.need(config, Settings()).kept > 0.95 * 12 * parameters


def test_a_batch_that_does_not_fit_is_refused_by_its_own_remedy(monkeypatch):
    config = Config.from_preset("nano")
    monkeypatch.setattr(memory, "machine_memory", lambda: 4 << 30)
    memory.check_memory(config, Settings())
    for settings in (Settings(batch=10**9), Settings(batch=64, seq_len=4096)):
        with pytest.raises(
            ValueError, match=r"activations .*choose a smaller --batch or --seq-len"
        ):
            memory.check_memory(config, settings)
