"""Logits and greedy text equal to transformers' DeepseekV4ForCausalLM on the same files.

It has no MTP, computes router logits and phases in the model's dtype, and breaks indexer ties
otherwise: hence float32 and 16 indexer heads.
"""

import pytest
import torch

import dsv4

transformers = pytest.importorskip("transformers")

SHAPES = {
    "flash-like": {"compress_ratios": [0, 0, 4, 128, 4, 0]},
    "pro-like": {"compress_ratios": [128, 128, 4, 128, 4, 0], "head_dim": 48, "index_topk": 3},
    "wide": {"sliding_window": 128, "index_topk": 512, "qk_rope_head_dim": 8, "o_groups": 4},
    "narrow": {"sliding_window": 2, "index_topk": 1, "num_hash_layers": 0, "swiglu_limit": 0.5},
    "hash only": {"num_hash_layers": 5, "n_routed_experts": 16, "num_experts_per_tok": 1},
    "other ratio": {
        "compress_ratios": [0, 4, 32, 4, 32, 0],
        "extra": {
            "layer_types": [
                "sliding_attention",
                "compressed_sparse_attention",
                "heavily_compressed_attention",
                "compressed_sparse_attention",
                "heavily_compressed_attention",
            ],
            "compress_rate_hca": 32,
        },
    },
}


@pytest.fixture(scope="module", params=SHAPES)
def both(request, make_model, tmp_path_factory, device):
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    model = make_model(**SHAPES[request.param])
    dsv4.save(model.state_dict(), model.config, path)
    theirs, report = transformers.DeepseekV4ForCausalLM.from_pretrained(
        path, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert all(name.startswith("mtp.") for name in report["unexpected_keys"])
    return dsv4.load(path, device=device), theirs.to(device).eval()


@pytest.mark.parametrize("n", [1, 5, 127, 128, 129, 700])
@pytest.mark.parametrize("batch", [1, 3])
def test_logits(both, n, batch, make_ids):
    ours, theirs = both
    ids = make_ids(batch, n, seed=n + 1)  # no two entries' scores within rounding at the choice
    with torch.no_grad():
        expected = theirs(ids).logits
        difference = (ours(ids) - expected).abs().max()
    assert difference <= 1e-4 * expected.std()


def test_greedy_continuation(both, make_ids):
    ours, theirs = both
    ids = make_ids(1, 150)
    expected = theirs.generate(ids, max_new_tokens=30, do_sample=False, eos_token_id=None)
    prompt = ids[0].tolist()
    found = dsv4.generate(ours, prompt, temperature=0, max_tokens=30)
    upto = len(found.ids)  # ours ends at EOS
    assert upto == 30 or found.finish_reason == "stop"
    assert found.ids == expected[0, 150 : 150 + upto].tolist()
