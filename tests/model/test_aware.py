"""Training that rounds as its checkpoint will: what a step multiplies is what the export holds."""

import dataclasses

import pytest
import torch

import dsv4
from dsv4.checkpoint.official import save
from dsv4.model import precision
from dsv4.model.layers import Linear
from dsv4.model.moe import Experts
from dsv4.model.transformer import Transformer

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}


@pytest.fixture
def make(make_config):
    def made(column, **changes):
        values = {
            "quantization_config": FP8,
            "expert_dtype": "fp4",
            "torch_dtype": "bfloat16",
            "index_head_dim": 32,
        }
        config = make_config(**(values | changes))
        model = Transformer(config, precision=column)
        model.initialize(0)
        return model

    return made


@pytest.mark.parametrize("column", [precision.FP8, precision.FP4], ids=["fp8", "fp4"])
def test_every_weight_gets_a_gradient_and_loss_falls(make, make_ids, column):
    model, ids = make(column), make_ids(2, 40)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(12):
        studies = model.new_studies(index=True)
        logits = model.logits(model.streams(ids[:, :-1], studies=studies))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        kl = sum(study.kl.mean() for study in studies if study.kl is not None)
        optimizer.zero_grad()
        (loss + kl).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all()
    ]
    assert all(name.startswith("mtp.") or ".compressor." in name for name in without)
    experts = model.layers[2].ffn.experts
    assert experts.w1.grad.abs().max() > 0 and experts.w2.grad.abs().max() > 0
    assert model.layers[1].attn.indexer.wq_b.weight.grad.abs().max() > 0


@pytest.mark.parametrize("stored", ["fp4", "fp8"])
def test_what_is_multiplied_is_what_is_exported(make, tmp_path, stored):
    """Bit for bit, matrix by matrix, after the weights have moved."""
    model = make(precision.FP4, expert_dtype=stored)
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    save(model.state_dict(), model.config, tmp_path / "model")
    plain = dsv4.load(tmp_path / "model", dtype=torch.float32)
    loaded = dict(plain.named_modules())
    seen = 0
    for name, module in model.named_modules():
        if type(module) is Linear and module.round_weight is not precision.as_is:
            assert torch.equal(module.matrix(), loaded[name].weight), name
            seen += 1
        if isinstance(module, Experts):
            for matrix in ("w1", "w2", "w3"):
                ours = module.round_weight(getattr(module, matrix))
                assert torch.equal(ours, getattr(loaded[name], matrix)), name
                seen += 1
    assert seen > 50


def test_the_forward_is_that_of_the_packed_checkpoint(make, make_ids, tmp_path):
    """With the operands that fast mode takes and the weights that files hold, all that is left is
    float32's own rounding (and fast mode's of index scores)."""
    ids = make_ids(2, 70)
    first = make(precision.FP4)
    save(first.state_dict(), first.config, tmp_path / "model")
    packed = dsv4.load(tmp_path / "model")
    stored = dsv4.load(tmp_path / "model", dtype=torch.float32).state_dict()
    aware = make(dataclasses.replace(precision.FP4, operand=precision.as_is))
    plain = make(precision.floating(torch.float32))
    with torch.no_grad():
        expected = packed(ids)
        errors = []
        for model in (aware, plain):
            model.load_state_dict(stored)
            gap = (model(ids) - expected).norm(dim=-1) / expected.norm(dim=-1)
            errors.append(gap.median())
    assert errors[0] < 1e-3 < 0.02 < errors[1]
