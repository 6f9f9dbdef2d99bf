"""The draft against dspark-mlx, an implementation that was not written here, in float32."""

import numpy as np
import pytest
import torch

from dsv4.model.draft import propose, remember

WHY = "pip install mlx mlx-cpu; pip install --no-deps dspark-mlx"
mx = pytest.importorskip("mlx.core", reason=WHY)
mlx = pytest.importorskip("dspark_mlx", reason=WHY)

SHAPES = {
    "three stages": {},
    "one stage": {"compress_ratios": [0, 4, 0], "dspark_target_layer_ids": (1,)},
    "two stages": {
        "compress_ratios": [0, 4, 0, 0],
        "hidden_size": 48,
        "hc_mult": 2,
        "sliding_window": 5,
        "dspark_block_size": 5,
        "dspark_markov_rank": 3,
        "n_routed_experts": 4,
        "num_experts_per_tok": 1,
    },
}
BASE = {
    "num_hidden_layers": 2,
    "num_hash_layers": 1,
    "compress_ratios": [0, 4, 0, 0, 0],
    "sliding_window": 8,
    "dspark_block_size": 4,
    "dspark_noise_token_id": 90,
    "dspark_target_layer_ids": (0, 1),
    "dspark_markov_rank": 6,
}


def oracle(model):
    """The same draft as dspark-mlx holds it, at temperature 0."""
    c = model.config
    args = mlx.DSparkArgs(
        vocab_size=c.vocab_size,
        dim=c.hidden_size,
        moe_inter_dim=c.moe_intermediate_size,
        n_layers=c.num_hidden_layers,
        n_mtp_layers=c.draft_stages,
        n_hash_layers=c.num_hash_layers,
        n_heads=c.num_attention_heads,
        n_routed_experts=c.n_routed_experts,
        n_activated_experts=c.num_experts_per_tok,
        route_scale=c.routed_scaling_factor,
        swiglu_limit=c.swiglu_limit,
        q_lora_rank=c.q_lora_rank,
        head_dim=c.head_dim,
        rope_head_dim=c.qk_rope_head_dim,
        o_groups=c.o_groups,
        o_lora_rank=c.o_lora_rank,
        window_size=c.sliding_window,
        hc_mult=c.hc_mult,
        dspark_block_size=c.dspark_block_size,
        dspark_noise_token_id=c.dspark_noise_token_id,
        dspark_target_layer_ids=c.dspark_target_layer_ids,
        dspark_markov_rank=c.dspark_markov_rank,
        temperature=0.0,
    )
    drafter = mlx.DSparkDrafter(args, max_seq_len=64)
    from dsv4.checkpoint.official import released

    names = {"embed.weight": "embed.weight", "head.weight": "head.weight"}
    weights = []
    for name, tensor in released(model.state_dict()):
        if name.startswith("mtp.") or name in names:
            value = mx.array(tensor.cpu().float().numpy())
            weights.append((name.replace("mtp.", "blocks.", 1), value))
    drafter.load_weights(weights, strict=True)
    return drafter


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_drafts(shape, seed, make_model, device):
    model = make_model(seed=seed, **(BASE | SHAPES[shape]))
    width = model.config.hidden_size * len(model.config.dspark_target_layer_ids)
    generator = torch.Generator().manual_seed(seed)
    total, first = 22, 3
    hidden = torch.randn(2, total, width, generator=generator)
    anchors = torch.randint(97, (2, total), generator=generator)
    theirs, cache = oracle(model), model.new_draft_cache(2)
    theirs.forward_spec(mx.array(anchors[:, 0].numpy()), mx.array(hidden[:, :first].numpy()), 0)
    remember(model, hidden[:, :first].to(device), cache)
    for p in range(first, total):  # the ring comes round twice
        ours = propose(model, anchors[:, p].to(device), cache)
        tokens, logits, confidence = theirs.forward_spec(
            mx.array(anchors[:, p].numpy()), mx.array(hidden[:, p - 1 : p].numpy()), p - 1
        )
        tokens, logits, confidence = (np.array(each) for each in (tokens, logits, confidence))
        assert ours.ids.tolist() == tokens[:, 1:].tolist()
        for mine, other in ((ours.logits, logits), (ours.confidence, confidence)):
            error = (mine.cpu() - torch.from_numpy(other)).abs().max() / np.abs(other).max()
            assert error < 2e-5, (p, float(error))
        remember(model, hidden[:, p : p + 1].to(device), cache)
