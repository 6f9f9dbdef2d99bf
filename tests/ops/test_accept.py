"""Acceptance of drafts: by hand, against dspark-mlx, and the distribution of what comes out."""

import numpy as np
import pytest
import torch

from dsv4.ops.accept import accept_greedy, accept_sampled, confident, own_confidence


def test_greedy_by_hand():
    drafts = torch.tensor([[4, 5, 6], [4, 5, 6], [4, 5, 6], [4, 5, 6], [4, 9, 6]])
    best = torch.tensor([[4, 5, 6, 7], [4, 5, 0, 7], [1, 5, 6, 7], [4, 5, 6, 7], [4, 5, 6, 7]])
    counts = torch.tensor([3, 3, 3, 2, 0])
    standing, token = accept_greedy(drafts, best, counts)
    assert standing.tolist() == [3, 2, 0, 2, 0]  # what follows a rejection does not stand
    assert token.tolist() == [7, 0, 1, 6, 4]


def test_a_drafts_own_confidence_is_its_probability():
    logits = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(1)) * 4
    logits[0, 0, 7] = 60.0  # certain
    drafts = torch.tensor([[7, 1], [2, 3], [4, 5]])
    wanted = logits.double().softmax(-1).gather(-1, drafts.unsqueeze(-1)).squeeze(-1)
    found = own_confidence(logits, drafts)
    assert torch.allclose(found.sigmoid().double(), wanted, atol=1e-6)
    assert confident(found, 0.999).tolist() == [1, 0, 0]


def test_greedy_is_dspark_mlx():
    verify = pytest.importorskip("dspark_mlx.verify", reason="pip install --no-deps dspark-mlx")
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        drafts = torch.randint(3, (4,), generator=generator)
        logits = torch.randn(5, 3, generator=generator)
        theirs = verify.greedy_accept(drafts.numpy(), logits.numpy())
        standing, token = accept_greedy(drafts, logits.argmax(-1), torch.tensor(4))
        assert int(standing) == theirs.n_accepted and int(token) == theirs.tokens[-1]


def test_sampled_by_hand():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]])
    q = torch.tensor([[0.8, 0.2, 0.0], [0.0, 0.0, 1.0]])
    drafts = torch.tensor([0, 2])

    def accept(coins, count=2):
        return accept_sampled(drafts, q, p, torch.tensor(coins), torch.tensor(count))

    standing, rest = accept([0.63, 0.0])  # above 0.5 / 0.8
    assert standing == 0 and torch.allclose(rest, torch.tensor([0.0, 1.0, 0.0]))
    standing, rest = accept([0.62, 0.61])
    assert standing == 1 and torch.allclose(rest, torch.tensor([0.5, 0.5, 0.0]))
    standing, rest = accept([0.0, 0.59])
    assert standing == 2 and torch.equal(rest, p[2])
    for count, row in ((1, p[1]), (0, p[0])):  # not looked at is not rejected
        standing, rest = accept([0.0, 0.0], count)
        assert standing == count and torch.equal(rest, row)


def test_edges():
    """A draft that Q holds impossible, and one that leaves no residual."""
    p, q = torch.tensor([[0.5, 0.5], [0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
    one = torch.tensor(1)
    standing, _ = accept_sampled(torch.tensor([1]), q, p, torch.tensor([0.999]), one)
    assert standing == 1  # Q(x) counts as 1e-8
    never = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    standing, rest = accept_sampled(torch.tensor([1]), never[:1], never, torch.tensor([0.0]), one)
    assert standing == 0 and torch.equal(rest, never[0])  # P(x) = 0 falls at any coin


def test_confident():
    logits = torch.tensor([[2.0, -1.0, 3.0], [2.0, 2.0, 2.0], [-9.0, 2.0, 2.0]])
    assert confident(logits, 0.7).tolist() == [1, 3, 0]
    assert confident(logits, 0.0).tolist() == [3, 3, 3]
    assert confident(torch.full((1, 1), torch.inf), 0.999).tolist() == [1]


@pytest.mark.parametrize("cut", ["none", "by the first token"])
def test_what_comes_out_is_distributed_as_the_model(cut):
    """χ² over the first two tokens of 200,000 sequences; P_2 depends on the first token.

    Cutting by what was known before the second draft changes nothing; a rule that keeps drafts
    that are likely to pass (and one that takes the bonus row after a rejection) fails this test.
    """
    n, v, generator = 200_000, 4, torch.Generator().manual_seed(1)
    table = torch.softmax(torch.randn(v + 1, v, generator=generator), -1)  # of the model, by token
    drawn = torch.softmax(torch.randn(v + 1, v, generator=generator), -1)  # of the draft

    def sample(rows):
        return torch.multinomial(rows, 1, generator=generator).squeeze(1)

    start = torch.full((n,), v)
    one = sample(drawn[start])
    two = sample(drawn[one])
    drafts = torch.stack((one, two), 1)
    q = torch.stack((drawn[start], drawn[one]), 1)
    p = torch.stack((table[start], table[one], table[two]), 1)
    counts = torch.full((n,), 2) if cut == "none" else 1 + (one >= 2).long()
    coins = torch.rand(n, 2, generator=generator)

    def statistic(standing, rest):
        after = sample(rest)
        first = torch.where(standing >= 1, one, after)
        second = torch.where(standing >= 2, two, after)
        second = torch.where(standing == 0, sample(table[first]), second)  # of the next step
        seen = torch.bincount(first * v + second, minlength=v * v).double()
        expected = n * (table[v].unsqueeze(1) * table[:v]).flatten().double()
        return float(((seen - expected) ** 2 / expected).sum())

    assert statistic(*accept_sampled(drafts, q, p, coins, counts)) < 37.7  # 15 degrees, p = 0.001
    standing, _ = accept_sampled(drafts, q, p, coins, counts)
    wrong = p[torch.arange(n), standing]  # forgets the residual
    assert statistic(standing, wrong) > 1000


def test_sampled_counts_are_dspark_mlx():
    """The same acceptance rate over drawn distributions, by its own random numbers."""
    verify = pytest.importorskip("dspark_mlx.verify", reason="pip install --no-deps dspark-mlx")
    generator, rng = torch.Generator().manual_seed(2), np.random.default_rng(2)
    p = torch.softmax(2 * torch.randn(4, 5, generator=generator), -1)
    q = torch.softmax(2 * torch.randn(3, 5, generator=generator), -1)
    n = 20_000
    drafts = torch.stack([torch.multinomial(row, n, True, generator=generator) for row in q], 1)
    ours, _ = accept_sampled(
        drafts,
        q.expand(n, -1, -1),
        p.expand(n, -1, -1),
        torch.rand(n, 3, generator=generator),
        torch.full((n,), 3),
    )
    theirs = np.array(
        [
            verify.speculative_sample_accept(d, q.numpy(), p.double().numpy(), rng).n_accepted
            for d in drafts.numpy()
        ]
    )
    rates = (
        torch.bincount(ours, minlength=4) / n
        - torch.bincount(torch.from_numpy(theirs), minlength=4) / n
    )
    assert rates.abs().max() < 0.02
