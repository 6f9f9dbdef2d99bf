import torch

from dsv4 import Config, Transformer


def test_a_seed_decides_the_weights():
    config = Config.from_preset("nano")
    first, same, other = (Transformer(config) for _ in range(3))
    for model, seed in ((first, 3), (same, 3), (other, 4)):
        model.initialize(seed)
    states = [model.state_dict() for model in (first, same, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])
    assert all(tensor.isfinite().all() for tensor in states[0].values())


def test_hash_table_is_balanced_and_distinct():
    config = Config.from_preset("nano")
    model = Transformer(config)
    model.initialize(0)
    table = model.layers[0].ffn.gate.tid2eid
    assert (table[:, 0] != table[:, 1]).all()
    for column in table.T:
        counts = column.bincount(minlength=config.n_routed_experts)
        assert counts.max() - counts.min() <= 1


def test_fresh_streams_are_read_as_their_mean_and_kept_apart():
    model = Transformer(Config.from_preset("nano"))
    model.initialize(0)
    from dsv4.ops import hyper

    block = model.layers[0]
    x = torch.randn(1, 5, 4, 256)
    pre, post, comb = hyper.coefficients(
        x,
        block.hc_attn_fn,
        block.hc_attn_scale,
        block.hc_attn_base,
        iterations=20,
        eps=1e-6,
        norm_eps=1e-6,
    )
    assert torch.allclose(pre, torch.full_like(pre, 0.25), atol=0.02)
    assert torch.allclose(post, torch.ones_like(post), atol=0.02)
    assert torch.allclose(comb, torch.eye(4).unsqueeze(2).expand_as(comb), atol=0.02)
