"""The model against the float64 oracle of tests/reference.py, MTP included."""

import pytest
import torch
from reference import Reference

SHAPES = {
    "all kinds": {},
    "pro-like": {"compress_ratios": [128, 128, 4, 128, 4, 0], "sliding_window": 8},
    "other ratios": {"compress_ratios": [0, 3, 8, 3, 8, 0], "index_topk": 4, "sliding_window": 5},
    "no yarn": {"compress_ratios": [4, 8, 4, 8, 0, 0], "rope_scaling": None, "sliding_window": 1},
    "two streams": {"hc_mult": 2, "hc_sinkhorn_iters": 3, "compress_ratios": [4, 8, 4, 8, 4, 0]},
    "clamped": {"swiglu_limit": 0.05, "compress_ratios": [4, 8, 4, 8, 4, 0], "num_hash_layers": 0},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_draft_equal_the_reference(shape, make_model, make_ids):
    model, n = make_model(**SHAPES[shape]), 140 if shape in ("all kinds", "pro-like") else 41
    ids = make_ids(1, n)
    reference = Reference(model.cpu())
    model.to(ids.device)
    with torch.no_grad():
        logits = model(ids)[0].cpu().double()
        drafted = model.draft_streams(model.streams(ids)[:, :-1], ids[:, 1:])
        draft = model.head(model.draft_hidden(drafted))[0].cpu().double()
    for ours, theirs in (
        (logits, reference.logits(ids[0].tolist())),
        (draft, reference.draft_logits(ids[0].tolist())),
    ):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()


def test_draft_cache_continues_the_draft(make_model, make_ids):
    model, ids = make_model(), make_ids(2, 60)
    with torch.no_grad():
        streams = model.streams(ids)
        whole = model.draft_streams(streams[:, :-1], ids[:, 1:])
        cache = model.new_draft_cache(2)
        parts = [
            model.draft_streams(streams[:, a:b], ids[:, a + 1 : b + 1], cache)
            for a, b in ((0, 20), (20, 21), (21, 59))
        ]
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-5 * whole.abs().max()
