"""The indexer learns from attention, the router is told its experts, and nothing else changes."""

import pytest
import torch

from dsv4.model.study import index_kl


def test_kl_is_the_formula_in_float64():
    scores = torch.randn(3, 7, 9, dtype=torch.float32, requires_grad=True)
    real = torch.rand(3, 7, 9) < 0.6
    real[0, 0] = False
    mass = torch.rand(3, 7, 9).masked_fill(~real, 0)
    mass[1, 1, :] = torch.zeros(9)
    p = mass / mass.sum(-1, keepdim=True).clamp(min=1e-30)
    found = index_kl(p, scores, real)
    exact = scores.detach().double().requires_grad_()
    expected = torch.zeros(3, 7, dtype=torch.float64)
    for i in range(3):
        for t in range(7):
            kept = real[i, t]
            if not kept.any() or not p[i, t].any():
                continue
            log_q = exact[i, t][kept].log_softmax(-1)
            q = p[i, t][kept].double()
            expected[i, t] = (q * (q.clamp(min=1e-300).log() - log_q)).sum()
    assert torch.allclose(found.double(), expected, atol=1e-6)
    found.sum().backward()
    expected.sum().backward()
    assert torch.allclose(scores.grad.double(), exact.grad, atol=1e-6)
    assert scores.grad[0, 0].abs().max() == 0


@pytest.mark.parametrize("dense", [True, False])
def test_the_index_loss_is_that_of_whole_matrices(make_model, make_ids, dense):
    """Attention and index scores of every query to every entry, without blocks or gathers."""
    model, ids = make_model(), make_ids(2, 70)
    layer = model.layers[1]
    studies = model.new_studies(dense=dense, index=True)
    seen = {}
    layer.attn.register_forward_pre_hook(lambda _, args: seen.update(u=args[0], span=args[1]))
    model.streams(ids, studies=studies)
    attn, u = layer.attn, seen["u"]
    from dsv4.ops import rotary
    from dsv4.ops.indexer import index_scores, top_entries
    from dsv4.ops.norm import rms_norm

    with torch.no_grad():
        phase = rotary.phases(torch.arange(70).unsqueeze(0), attn.freqs).unsqueeze(2)
        qr = attn.q_norm(attn.wq_a(u))
        q = attn.wq_b(qr).unflatten(-1, (attn.heads, attn.channels))
        q = rotary.rotate(rms_norm(q, None, attn.eps), phase) * attn.channels**-0.5
        kv = rotary.rotate(attn.kv_norm(attn.wkv(u)), phase.squeeze(2))
        entries = attn.compressor(u, seen["span"], None)  # [2, 17, c]
        chooser = attn.indexer(u, qr, phase, seen["span"], None)
        scores = index_scores(chooser.q, chooser.weights, chooser.keys)
        t = torch.arange(70).unsqueeze(1)
        visible = torch.arange(17) < (t + 1) // 4
        near = (torch.arange(70) <= t) & (torch.arange(70) > t - 16)
        if not dense:
            best = top_entries(scores.masked_fill(~visible, -torch.inf), 8)
            kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(2, best, True) & visible
        else:
            kept = visible.expand_as(scores)
        logits = torch.cat(
            (
                torch.einsum("bthc,bsc->bths", q, kv).masked_fill(~near.unsqueeze(1), -torch.inf),
                torch.einsum("bthc,bsc->bths", q, entries).masked_fill(
                    ~kept.unsqueeze(2), -torch.inf
                ),
                attn.attn_sink.view(1, 1, -1, 1).expand(2, 70, -1, 1),
            ),
            dim=-1,
        )
        mass = logits.softmax(-1)[..., 70:-1].sum(2)
        p = mass / mass.sum(-1, keepdim=True).clamp(min=1e-30)
        expected = index_kl(p, scores, kept)
        best = top_entries(scores.masked_fill(~kept, -torch.inf), 8)
    assert torch.allclose(studies[1].kl, expected, atol=1e-5)
    assert torch.equal(studies[1].seen, visible.any(1).expand(2, -1))
    assert torch.allclose(studies[1].recall, p.gather(2, best).sum(2), atol=1e-5)
    assert studies[0].kl is None and studies[2].kl is None  # a window alone; every entry


def test_the_index_loss_trains_the_indexer_alone(make_model, make_ids):
    model, ids = make_model(), make_ids(2, 70)
    studies = model.new_studies(index=True)
    model.streams(ids, studies=studies)
    sum(study.kl.sum() for study in studies if study.kl is not None).backward()
    for name, parameter in model.named_parameters():
        if ".indexer." in name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_the_language_loss_leaves_the_indexer_alone(make_model, make_ids):
    model, ids = make_model(), make_ids(2, 70)
    studies = model.new_studies(index=True)
    model.logits(model.streams(ids, studies=studies)).square().mean().backward()
    for name, parameter in model.named_parameters():
        if ".indexer." in name:
            assert parameter.grad is None, name


@pytest.mark.parametrize("documents", [None, [[30, 40], [70]]])
def test_recomputing_changes_no_bit(make_model, make_ids, documents):
    model, ids = make_model(), make_ids(2, 70)
    grads = []
    for model.recompute in (False, True):
        model.zero_grad()
        studies = model.new_studies(index=True)
        streams = model.streams(ids, documents=documents, studies=studies)
        drafted = model.draft_streams(streams, ids, documents=documents, study=studies[-1])
        kl = sum(study.kl.sum() for study in studies if study.kl is not None)
        (kl + streams.square().mean() + drafted.square().mean()).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_told_experts_run_with_weights_of_now(make_model, make_ids):
    model, ids = make_model(), make_ids(2, 20)
    before = model.new_studies()
    expected = model.streams(ids, studies=before)
    again = model.new_studies()
    for study, one in zip(again, before, strict=True):
        study.experts = one.indices
    assert torch.equal(model.streams(ids, studies=again), expected)
    again[3].experts = (before[3].indices + 1) % 8
    changed = model.streams(ids, studies=again)
    assert not torch.equal(changed, expected)
    assert torch.equal(again[3].indices, (before[3].indices + 1) % 8)
    model.zero_grad()
    changed.square().mean().backward()
    assert model.layers[3].ffn.gate.weight.grad.abs().max() > 0
