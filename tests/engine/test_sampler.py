"""The batched sampler against transformers' processors, float64 formulas, and itself in pieces."""

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from dsv4.engine.request import Job, Token
from dsv4.engine.sampler import Row, choose, choose_runs, told
from dsv4.sampling import Sampling, probabilities

VOCAB = 300
JOBS = [
    Job([1, 2], Sampling(seed=1)),
    Job([1, 2], Sampling(temperature=0)),
    Job([1, 2], Sampling(temperature=0.7, top_k=20, seed=3), logprobs=0),
    Job([1, 2], Sampling(top_p=0.8, seed=-4), number=2, logprobs=5),
    Job([1, 2], Sampling(min_p=0.05, seed=5), frequency_penalty=0.7, presence_penalty=0.3),
    Job([9, 9, 7], Sampling(temperature=0), repetition_penalty=1.7, logit_bias={4: 2.0, 7: -100}),
    Job([3], Sampling(temperature=1.5, seed=7), logit_bias={0: 3.0}, frequency_penalty=-0.5),
]


def model(ids):
    """Logits [vocab] that depend on the last two ids, with ties."""
    generator = torch.Generator().manual_seed(hash(tuple(ids[-2:])) % 1000)
    return (torch.randn(VOCAB, generator=generator) * 8).round() / 4


def alone(job, steps=24):
    row = Row(job)
    told = [choose(model(row.sampled)[None], [row])[0] for _ in range(steps)]
    assert [token.id for token in told] == row.sampled
    return told


def test_a_job_says_the_same_in_any_company():
    expected = [alone(job) for job in JOBS]
    together = [Row(job) for job in JOBS]
    for step in range(24):
        for rows in (together[step % 3 :: 2], together):  # some are ahead of others
            rows = [row for row in rows if len(row.sampled) <= step]
            logits = torch.stack([model(row.sampled) for row in rows])
            for row, token in zip(rows, choose(logits, rows), strict=True):
                assert token == expected[together.index(row)][len(row.sampled) - 1]
    assert [row.sampled for row in together] == [[t.id for t in told] for told in expected]


def test_drafts_change_nothing():
    expected = [alone(job, 40) for job in JOBS]
    rows, said = [Row(job) for job in JOBS], [[] for _ in JOBS]
    rng = np.random.default_rng(0)
    while any(len(row.sampled) < 30 for row in rows):
        drafts = []
        for row, future in zip(rows, expected, strict=True):
            ids = [token.id for token in future[len(row.sampled) :][: rng.integers(0, 4)]]
            if ids and rng.random() < 0.5:
                ids[rng.integers(len(ids))] = int(rng.integers(VOCAB))
            drafts.append(ids)
        logits = torch.stack(
            [
                model([*row.sampled, *ids[:n]])
                for row, ids in zip(rows, drafts, strict=True)
                for n in range(len(ids) + 1)
            ]
        )
        before = [len(row.sampled) for row in rows]
        for b, run in enumerate(choose_runs(logits, rows, drafts)):
            right = [t.id for t in expected[b][before[b] :]]
            hits = next((n for n, d in enumerate(drafts[b]) if d != right[n]), len(drafts[b]))
            assert len(run) == min(hits + 1, len(right))
            said[b] += run
    for told_, future in zip(said, expected, strict=True):
        assert told_[:30] == future[:30]


def test_penalties_are_those_of_openai_and_transformers():
    ids, said = [3, 5, 5, 250], [7, 7, 7, 5, 8]
    job = Job(
        ids,
        Sampling(temperature=0),
        repetition_penalty=1.3,
        frequency_penalty=0.4,
        presence_penalty=-0.9,
        logit_bias={8: -1.5, 11: 4.0},
    )
    for seed in range(20):
        logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
        row = Row(job)
        for token in said:
            row.push(token)
        edited = logits.clone()
        row.penalties.apply(edited[0])
        expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([ids + said]), logits.clone())
        expected = expected.double()
        for token in range(VOCAB):
            count = said.count(token)
            expected[0, token] -= 0.4 * count + (-0.9 if count else 0)
        expected[0, 8] -= 1.5
        expected[0, 11] += 4
        torch.testing.assert_close(edited.double(), expected, atol=1e-6, rtol=1e-6)
        assert choose(logits, [row])[0].id == int(expected.argmax())


def test_a_random_number_belongs_to_its_token():
    row = Row(Job([1], Sampling(seed=9), number=3))
    stream = Sampling(seed=9).generator(3).random(6).tolist()
    assert [row.uniform(k) for k in (4, 0, 5, 1, 4)] == [stream[k] for k in (4, 0, 5, 1, 4)]
    unseeded = Row(Job([1], Sampling()))
    assert unseeded.uniform(2) == unseeded.uniform(2) != Row(Job([1], Sampling())).uniform(2)


def test_log_probabilities_are_of_the_raw_logits():
    logits = (torch.randn(6, VOCAB) * 3).round()  # ties
    expected = logits.double().log_softmax(-1)
    job = Job([1], Sampling(temperature=0.1, top_k=2, seed=1), logprobs=9, logit_bias={3: 100.0})
    for token, logprobs in zip(
        choose(logits, [Row(job) for _ in range(6)]), expected.tolist(), strict=True
    ):
        order = sorted(range(VOCAB), key=lambda i: (-logprobs[i], i))
        assert token.id == 3 and token.logprob == pytest.approx(logprobs[3], abs=1e-12)
        assert [i for i, _ in token.top] == order[:9]
        assert [value for _, value in token.top] == pytest.approx([logprobs[i] for i in order[:9]])
    found = told(logits, [0, 1, 2, 3, 4, 5], [0, 1, 2, 0, VOCAB, 1])
    assert [len(token.top) for token in found] == [0, 1, 2, 0, VOCAB, 1]
    assert told(logits[:1], [5], [0]) == [Token(5, expected[0, 5].item())]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_broken_logits_fail_their_job_alone(value):
    logits = torch.stack([model([b]) for b in range(len(JOBS))])
    expected = choose(logits, [Row(job) for job in JOBS])
    for bad in range(len(JOBS)):
        broken = logits.clone()
        broken[bad, 17] = value
        rows = [Row(job) for job in JOBS]
        found = choose(broken, rows)
        assert isinstance(found[bad], ValueError) and "not finite" in str(found[bad])
        assert rows[bad].sampled == []
        assert found[:bad] + found[bad + 1 :] == expected[:bad] + expected[bad + 1 :]


def test_broken_logits_behind_a_draft():
    best = [int(model(ids).argmax()) for ids in ([], [5])]
    logits = torch.stack([model([]), torch.full((VOCAB,), torch.nan)])
    (run,) = choose_runs(logits, [Row(JOBS[1])], [[best[0]]])
    assert [token.id for token in run] == [best[0]]  # it stands; then stop
    (run,) = choose_runs(logits, [Row(JOBS[1])], [[best[0] + 1]])
    assert run[0].id == best[0]  # never looked at
    (failed,) = choose_runs(logits.flip(0), [Row(JOBS[1])], [[best[0]]])
    assert isinstance(failed, ValueError) and "not finite" in str(failed)


def test_a_run_stops_at_an_end_token():
    logits = torch.stack([model([n]) for n in range(4)])
    drafts = logits.argmax(-1)[:3].tolist()
    job = Job([1], Sampling(temperature=0), end_ids=[drafts[1]])
    assert [t.id for t in choose_runs(logits, [Row(job)], [drafts])[0]] == drafts[:2]


def test_a_bias_outside_of_the_vocabulary_fails_its_job_alone():
    rows = [Row(Job([1], logit_bias={VOCAB: 1.0})), Row(JOBS[1])]
    bad, good = choose(torch.stack([model([]), model([])]), rows)
    assert isinstance(bad, Exception) and good.id == int(model([]).argmax())
    everything = Row(Job([1], logit_bias=dict.fromkeys(range(VOCAB), -float("inf"))))
    (bad,) = choose(model([])[None], [everything])
    assert "no token come" in str(bad)


def test_drawn_tokens_follow_the_distribution():
    sampling = Sampling(temperature=1.3, top_p=0.9)
    logits = torch.tensor([0.2, 1.0, -0.5, 2.0, -3.0])
    count = 4000
    rows = [Row(Job([1], Sampling(1.3, 0.9, seed=s))) for s in range(count)]
    tokens = choose(logits.expand(count, -1), rows)
    found = torch.tensor([t.id for t in tokens]).bincount(minlength=5)
    chance = probabilities(logits[None], [sampling])[0] * count
    kept = chance > 0
    assert found[~kept].sum() == 0
    assert ((found[kept] - chance[kept]) ** 2 / chance[kept]).sum() < 16.3  # χ², 1 in 1000
