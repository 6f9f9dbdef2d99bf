"""The draft's loss: its float64 formula, what its gradient reaches, and what a row may know."""

import math

import pytest
import torch
from drafts import DSPARK

from dsv4.model.draft import propose, remember
from dsv4.train import draft_loss as module
from dsv4.train.draft_loss import draft_loss, freeze_all_but_draft, objective, random_anchors

SIZES = DSPARK | {"dspark_block_size": 3}


@pytest.fixture
def model(make_model):
    model = make_model(**SIZES)
    freeze_all_but_draft(model)
    return model


def test_the_formula():
    logits, p = torch.randn(2, 3, 5), torch.randn(2, 3, 5).softmax(-1)
    confidence, labels = torch.randn(2, 3), torch.tensor([[1, -100, 2], [4, 0, 3]])
    total = weights = 0.0
    for r, k in ((0, 0), (1, 0), (1, 1), (1, 2)):  # (0, 2) comes after a label that is none
        exponentials = [math.exp(x) for x in logits[r, k].tolist()]
        q = [e / sum(exponentials) for e in exponentials]
        l1 = sum(abs(x - y) for x, y in zip(q, p[r, k].tolist(), strict=True))
        sure, rate = 1 / (1 + math.exp(-float(confidence[r, k]))), 1 - l1 / 2
        bce = -rate * math.log(sure) - (1 - rate) * math.log(1 - sure)
        w = math.exp(-k / 4)
        total += w * (-0.1 * math.log(q[labels[r, k]]) + 0.9 * l1 + bce)
        weights += w
    found = objective(logits, confidence, p, labels)
    assert abs(float(found) - total / (weights + 1e-6)) < 1e-5


def test_the_gradient_is_the_drafts_alone(model, make_ids, device):
    ids = make_ids(2, 20)
    anchors = torch.tensor([[1, 9, 18], [4, 12, 17]], device=device)
    loss = draft_loss(model, ids, ids.roll(-1, 1), anchors)
    loss.backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert all(name.startswith("mtp.") for name in reached)
    ungated = {n for n, _ in model.mtp.named_parameters() if f"mtp.{n}" not in reached}
    assert not ungated, ungated


def test_rows_are_those_of_a_draft(model, make_ids, device, monkeypatch):
    """The same logits as `propose` gives after the tokens before the anchor, true tokens forced."""
    ids, seen = make_ids(1, 24), {}
    monkeypatch.setattr(module, "objective", lambda *parts: seen.update(parts=parts) or parts[0])
    anchors = [1, 7, 13, 22]
    with torch.no_grad():
        draft_loss(model, ids, ids.roll(-1, 1), torch.tensor([anchors], device=device))
        means = model.streams_and_targets(ids)[1]
        target = model(ids).softmax(-1)
    logits, confidence, p, labels = seen["parts"]
    for r, anchor in enumerate(anchors):
        cache = model.new_draft_cache(1)
        forced = iter([*ids[0, anchor + 1 :].tolist(), 0, 0, 0])
        with torch.no_grad():
            remember(model, means[:, :anchor], cache)
            found = propose(
                model,
                ids[0, anchor : anchor + 1],
                cache,
                lambda row, forced=forced: torch.full((1,), next(forced), device=row.device),
            )
        rows = min(3, 24 - anchor)
        assert torch.allclose(logits[r, :rows], found.logits[0, :rows], atol=1e-4)
        assert torch.allclose(confidence[r, :rows], found.confidence[0, :rows], atol=1e-4)
        assert torch.allclose(p[r, :rows], target[0, anchor : anchor + rows], atol=1e-5)
    assert labels[3].tolist()[2:] == [-100]  # past the sequence's end


def test_a_few_steps_lower_it(model, make_ids):
    ids = make_ids(4, 24)
    generator = torch.Generator().manual_seed(0)
    anchors = random_anchors(4, 24, 6, generator).to(ids.device)
    assert anchors.min() >= 1 and anchors.max() <= 22
    optimizer = torch.optim.Adam(model.mtp.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = draft_loss(model, ids, ids.roll(-1, 1), anchors)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1, losses
