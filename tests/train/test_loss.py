import pytest
import torch
import torch.nn.functional as F

from dsv4.model.moe import log_score
from dsv4.model.study import Study
from dsv4.train import loss as losses
from dsv4.train.data import Batch


@pytest.mark.parametrize("chunk", [3, 1000])
def test_linear_cross_entropy_equals_the_whole_one(chunk, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    hidden, weight = torch.randn(20, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    targets = torch.randint(11, (20,)).masked_fill(torch.arange(20) % 4 == 0, -100)
    found = losses.linear_cross_entropy(hidden, weight, targets)
    (3 * found).backward()
    twins = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    expected = F.cross_entropy(twins[0] @ twins[1].T, targets)
    (3 * expected).backward()
    assert abs(found - expected) < 1e-5
    assert torch.allclose(hidden.grad.double(), twins[0].grad, atol=1e-5)
    assert torch.allclose(weight.grad.double(), twins[1].grad, atol=1e-5)


def test_losses_equal_those_of_whole_logits(make_model, make_ids):
    model, wide = make_model(), make_ids(2, 22)
    ids, targets, after = wide[:, :20], wide[:, 1:21].clone(), wide[:, 2:].clone()
    targets[0, 5] = after[0, 5] = after[0, 4] = -100
    terms = losses.losses(model, Batch(ids, wide[:, 1:21], targets, after))
    found = terms.next_token, terms.mtp
    with torch.no_grad():
        logits = model(ids).flatten(0, 1)
        draft = model.draft_streams(model.streams(ids), wide[:, 1:21])
        draft = model.head(model.draft_hidden(draft)).flatten(0, 1)
    for ours, theirs, gold in zip(found, (logits, draft), (targets, after), strict=True):
        assert abs(ours - F.cross_entropy(theirs, gold.flatten())) < 1e-4


def test_balance_loss_and_bias(make_model, make_ids):
    model = make_model(num_hash_layers=2)
    ids = make_ids(2, 32)
    studies = model.new_studies()
    streams = model.streams(ids[:, :30], studies=studies)
    model.draft_streams(streams, ids[:, 1:31], study=studies[-1])
    learned = [study for gate, study in losses.routers(model, studies) if not gate.hashed]
    assert len(learned) == 4  # three layers and the MTP block; hash layers are left out
    expected = 0.0
    for study in learned:
        for b in range(2):
            scores = study.log_scores[30 * b : 30 * b + 30].exp()
            chosen = study.indices.view(2, 30, 3)[b]
            f = chosen.flatten().bincount(minlength=8) * 8 / (3 * 30)
            p = (scores / scores.sum(1, keepdim=True)).mean(0)
            expected += 1e-4 * float((f * p).sum().detach()) / 2
    found = losses.losses(model, Batch(ids[:, :30], ids[:, 1:31], ids[:, 1:31], ids[:, 2:]))
    assert abs(found.balance.item() - expected) < 1e-9
    gates = losses.gates(model)
    before = gates[0].bias.clone()
    losses.update_bias(model, found.loads)
    load = learned[0].indices.flatten().bincount(minlength=8)
    assert torch.allclose(gates[0].bias - before, 1e-3 * torch.sign(load.float().mean() - load))


def test_padding_counts_in_no_term(make_model, make_ids):
    """A row and the same row with padding after it: one loss, one balance, one load."""
    model, wide = make_model(num_hash_layers=2), make_ids(1, 62)
    ids, next_ids, targets, after = wide[:, :60], wide[:, 1:61], wide[:, 1:61], wide[:, 2:62]
    targets = targets.masked_fill(torch.arange(60) >= 39, -100)
    after = after.masked_fill(torch.arange(60) >= 38, -100)
    padded = Batch(ids, next_ids, targets, after, [[25, 15]])
    whole = Batch(ids[:, :40], next_ids[:, :40], targets[:, :40], after[:, :40], [[25, 15]])
    ours, theirs = (
        losses.losses(model, batch, dense=True, index=True) for batch in (padded, whole)
    )
    for name in ("next_token", "mtp", "balance", "index", "recall"):
        assert abs(getattr(ours, name) - getattr(theirs, name)) < 1e-5, name
    assert torch.equal(ours.loads, theirs.loads) and ours.loads.sum() == 4 * 40 * 3


def test_the_balance_loss_is_finite_for_any_logits():
    real, studies, rows = torch.ones(2, 30, dtype=torch.bool), [], []
    for n in range(4):
        logits = torch.empty(60, 8).uniform_(-300, -100)  # e^x is 0 in float32
        logits[::3] = torch.empty(20, 8).uniform_(-30, 30)
        logits[1] = torch.tensor([-3e38, 3e38, -1e4, 1e4, 0.0, -20.0, -200.0, 20.0])
        logits[2] = -1e30 * (1 + n)
        rows.append(logits.requires_grad_())
        indices = torch.rand(60, 8).topk(3).indices
        studies.append(Study(log_scores=log_score(logits), indices=indices))
    expected = torch.zeros((), dtype=torch.float64)
    exact = [logits.detach().double().clamp(min=-600).requires_grad_() for logits in rows]
    for study, logits in zip(studies, exact, strict=True):
        scores = torch.log1p(logits.clamp(max=300).exp()).where(logits < 300, logits).sqrt()
        share = (scores / scores.sum(-1, keepdim=True)).view(2, 30, 8).mean(1)
        chosen = F.one_hot(study.indices, 8).sum(1).view(2, 30, 8).double().mean(1)
        expected = expected + 1e-4 * (8 / 3 * chosen * share).sum(-1).mean()
    found = losses.balance_loss(studies, real)
    assert abs(found.item() - expected.item()) < 1e-6 * expected.item()
    found.backward()
    expected.backward()
    for logits, right in zip(rows, exact, strict=True):
        assert logits.grad.isfinite().all()
        error = (logits.grad - right.grad).abs().max()
        assert error < 1e-5 * right.grad.abs().max()
