import torch

from dsv4.ops.indexer import index_scores, top_entries


def by_sorting(row, k):
    return sorted(range(len(row)), key=lambda i: (row[i], i), reverse=True)[:k]


def test_ties_go_to_the_more_recent_entry():
    generator = torch.Generator().manual_seed(0)
    for levels in (1, 2, 5, 1000):
        scores = torch.randint(levels, (50, 64), generator=generator).float() - levels // 2
        found = top_entries(scores, 9)
        assert found.tolist() == [by_sorting(row, 9) for row in scores.tolist()]


def test_zero_has_no_sign_and_masked_entries_come_last():
    scores = torch.tensor([0.0, -0.0, -1e-30, -torch.inf, 0.0, -0.0])
    assert top_entries(scores, 6).tolist() == [5, 4, 1, 0, 2, 3]


def test_scores_are_their_equation():
    q, w, k = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4), torch.randn(2, 5, 8)
    expected = torch.einsum("bnh,bnhe->bne", w, torch.einsum("bnhc,bec->bnhe", q, k).relu())
    assert torch.allclose(index_scores(q, w, k), expected, atol=1e-5)
