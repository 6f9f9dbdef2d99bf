import pytest
import torch

from dsv4 import Config, Transformer
from dsv4.train.optim import (
    Muon,
    groups_table,
    optimizers,
    orthogonalise,
    parameter_groups,
    row_parts,
    takes_muon,
)


def newton_schulz(g):
    """Float64, one matrix, from the report's formula."""
    x = g.double() / g.double().norm()
    for a, b, c in [(3.4445, -4.7750, 2.0315)] * 8 + [(2.0, -1.5, 0.5)] * 2:
        s = x @ x.T
        x = a * x + b * s @ x + c * s @ s @ x
    return x


def matrices(rows, columns, seed):
    """Three of them [3, rows, columns]; the largest singular value is 20 times the smallest."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, columns)
    left = torch.linalg.qr(torch.randn(3, rows, rank, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(3, columns, rank, generator=generator)).Q
    return left * torch.linspace(0.05, 1, rank) @ right.mT


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_orthogonalise_equals_the_formula_and_is_nearly_orthogonal(shape):
    g = matrices(*shape, seed=0)
    found = orthogonalise(g, torch.float32)
    for one, matrix in zip(found, g, strict=True):
        assert torch.allclose(one.double(), newton_schulz(matrix), atol=1e-5)
    assert (torch.linalg.svdvals(found) - 1).abs().max() < 1e-3
    assert (orthogonalise(g) - found).abs().max() < 0.05  # bfloat16 products suffice


def test_every_parameter_has_exactly_one_optimizer():
    model = Transformer(Config.from_preset("nano"))
    muon, adam = optimizers(model, model.config, lr=1e-3)
    owned = [p for o in (muon, adam) for group in o.param_groups for p in group["params"]]
    assert len(owned) == len({id(p) for p in owned}) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        plain = name in ("embed.weight", "head.weight") or "norm" in name or "_sink" in name
        plain = plain or name.endswith(("_base", "_scale"))
        assert takes_muon(name, parameter.dim()) != plain, name


def test_by_one_rule_adamw_has_every_parameter():
    model = Transformer(Config.from_preset("nano"))
    (adam,) = optimizers(model, model.config, lr=1e-3, rule="adamw")
    owned = [p for group in adam.param_groups for p in group["params"]]
    assert [id(p) for p in owned] == [id(p) for p in model.parameters()]
    assert "Muon" not in groups_table(model, model.config, "adamw")


def test_the_table_names_every_parameter_once():
    model = Transformer(Config.from_preset("nano"))
    groups = parameter_groups(model, model.config)
    assert [one.name for one in groups] == [name for name, _ in model.named_parameters()]
    lines = groups_table(model, model.config).splitlines()[1:]
    numbers = sum(int(line.split()[-1].replace(",", "")) for line in lines)
    assert numbers == sum(p.numel() for p in model.parameters())
    assert sum(int(line.split()[2]) for line in lines) == len(groups)
    table = {line.split()[0]: line.split()[1:4] for line in lines}
    assert table["layers.*.ffn.experts.w1"] == ["Muon", "6", "96"]  # 6 layers of 16 experts
    assert table["layers.*.hc_attn_fn"] == ["Muon", "6", "18"]
    assert table["layers.*.attn.compressor.wkv.weight"] == ["Muon", "4", "6"]  # CSA: two each
    assert table["embed.weight"] == ["AdamW", "1", "-"]
    assert not any(name.endswith(("gate.bias", "tid2eid")) for name in table)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_with_its_settings_it_is_torchs_muon(shape):
    """Five steps of one triple, the RMS of 0.2: torch sums the moment as (1 − μ)G, which the
    normalisation takes out, and rounds to bfloat16 before it normalises."""
    triple = (3.4445, -4.7750, 2.0315)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    config = Config.from_preset("nano")
    settings = {"lr": 0.1, "momentum": 0.95, "weight_decay": 0.1}
    muon = Muon([("a.weight", ours)], config, gamma=0.2, coefficients=(triple,) * 5, **settings)
    torchs = torch.optim.Muon(
        [theirs], nesterov=True, ns_steps=5, adjust_lr_fn="match_rms_adamw", **settings
    )
    for seed in range(4):
        gradient = matrices(*shape, seed)[0]
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        before = ours.detach().clone()
        muon.step()
        torchs.step()
        moved = (ours - before).norm()
        assert (ours - theirs).norm() < 0.05 * (seed + 1) ** 0.5 * moved


def test_stored_matrices_are_split_into_logical_ones():
    config = Config.from_preset("nano")
    shapes = {name: p.shape for name, p in Transformer(config).named_parameters()}
    expected = {
        "layers.0.hc_attn_fn": [4, 4, 16],
        "hc_head_fn": [4],
        "layers.2.attn.compressor.wkv.weight": [128, 128],
        "layers.2.attn.indexer.compressor.wgate.weight": [64, 64],
        "layers.3.attn.compressor.wkv.weight": [128],
        "layers.0.attn.wo_a.weight": [128, 128],
        "layers.0.attn.wq_b.weight": [512],
    }
    assert {name: row_parts(name, shapes[name], config) for name in expected} == expected


def test_muon_step_is_its_equation():
    config = Config.from_preset("nano")
    weight = torch.nn.Parameter(torch.randn(2, 16, 40))  # two experts
    before, lr = weight.detach().clone(), 0.1
    muon = Muon([("layers.0.ffn.experts.w1", weight)], config, lr=lr)
    moment = torch.zeros(2, 16, 40, dtype=torch.float64)
    expected = before.double()
    for seed in range(3):
        weight.grad = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(seed))
        muon.step()
        moment = 0.95 * moment + weight.grad.double()
        update = torch.stack([newton_schulz(m) for m in 0.95 * moment + weight.grad.double()])
        expected = expected * (1 - lr * 0.1) - lr * update * 40**0.5 * 0.18
        rms = (update * 40**0.5 * 0.18).square().mean().sqrt()
        assert abs(rms - 0.18) < 0.03
    assert (weight.double() - expected).abs().max() < 0.02
