"""The sampler against transformers' processors, a float64 formula of its own, and its limits."""

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import dsv4
from dsv4.sampling import Sampling, draw, drawn, probabilities, sample

SETTINGS = [
    Sampling(),
    Sampling(temperature=0),
    Sampling(top_k=3),
    Sampling(temperature=0.3, top_p=0.7),
    Sampling(temperature=2.0, top_k=40, top_p=0.9, min_p=0.01),
    Sampling(min_p=0.2),
    Sampling(top_k=1, temperature=1e30),
    Sampling(top_k=400, top_p=0.99),
]


def one(logits, **options):
    return probabilities(torch.as_tensor(logits).unsqueeze(0), [Sampling(**options)])[0]


def expected(logits, s):
    """The same in plain Python: rank, cut, renormalise."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if s.temperature == 0:
        return {order[0]: 1.0}
    weights = [np.exp((logits[i] - logits[order[0]]) / s.temperature) for i in order]
    n = min(s.top_k or len(order), len(order))
    whole, before, kept = sum(weights[:n]), 0.0, {}
    for token, weight in zip(order[:n], weights, strict=False):
        if kept and (before >= s.top_p * whole or weight < s.min_p):
            break
        kept[token] = weight
        before += weight
    return {token: weight / before for token, weight in kept.items()}


@given(
    logits=st.lists(st.integers(-80, 80).map(lambda n: n / 8), min_size=2, max_size=30),
    temperature=st.sampled_from([0, 0.1, 0.7, 1, 3]),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 1),
)
def test_ranks_cut_and_renormalised(logits, temperature, top_k, top_p, min_p):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    found = one(torch.tensor(logits), **vars(sampling))
    wanted = expected(logits, sampling)
    assert set(found.nonzero().flatten().tolist()) == {t for t, p in wanted.items() if p > 0}
    for token, weight in wanted.items():
        assert abs(float(found[token]) - weight) <= 1e-12


def test_transformers_cuts_alike():
    logits = torch.randn(5, 700) * 3
    for temperature, top_k, top_p, min_p in itertools.product(
        (0.3, 1.0, 1.7), (0, 5, 300), (0.4, 0.95, 1.0), (0, 0.02)
    ):
        chain = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
        chain += [TopKLogitsWarper(top_k)] if top_k else []
        chain += [TopPLogitsWarper(top_p)] if top_p < 1 else []
        chain += [MinPLogitsWarper(min_p)] if min_p else []
        wanted = chain(None, logits.clone()).softmax(-1)
        sampling = Sampling(temperature, top_p, top_k, min_p)
        found = probabilities(logits, [sampling] * 5)
        assert torch.equal(found > 0, wanted > 0), sampling
        assert torch.allclose(found.float(), wanted, atol=1e-6)


def test_a_row_does_not_depend_on_its_neighbours():
    logits = torch.randn(len(SETTINGS), 1500) * 4
    logits[:, ::7] = logits[:, 1:2]  # ties
    together = probabilities(logits, SETTINGS)
    seeded = [replace(s, seed=5) for s in SETTINGS]
    drawn = sample(logits, seeded, [s.generator(b) for b, s in enumerate(seeded)])
    for b, setting in enumerate(seeded):
        assert torch.equal(together[b], probabilities(logits[b : b + 1], [setting])[0])
        assert drawn[b] == sample(logits[b : b + 1], [setting], [setting.generator(b)])[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_drawn_among_the_kept_as_among_all(dtype):
    settings = [*SETTINGS, Sampling(top_k=300, min_p=0.001), Sampling(top_p=1e-9)]
    for scale in (0.01, 1, 8):  # a nucleus of all, of some, of one
        logits = (torch.randn(len(settings), 1500) * scale).to(dtype)
        logits[:, ::5] = logits[:, 3:4]  # ties
        whole = probabilities(logits, settings)
        for uniform in (0.0, 0.31, 0.77, 1 - 2**-53):
            uniforms = [uniform] * len(settings)
            assert torch.equal(drawn(logits, settings, uniforms), draw(whole, uniforms))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_exactly_k_and_ties_go_to_lower_ids(dtype):
    logits = torch.tensor([1.0, 5.0, 3.0, 5.0, 3.0, 3.0, 5.0], dtype=dtype)
    for k, kept in (
        (1, [1]),
        (2, [1, 3]),
        (3, [1, 3, 6]),
        (4, [1, 2, 3, 6]),
        (6, [1, 2, 3, 4, 5, 6]),
    ):
        assert one(logits, top_k=k).nonzero().flatten().tolist() == kept
    flat = torch.zeros(3000, dtype=dtype)
    for k in (1, 7, 255, 256, 257, 2999, 3000, 3001):
        assert one(flat, top_k=k).nonzero().flatten().tolist() == list(range(min(k, 3000)))
    assert int((one(flat, top_p=0.5) > 0).sum()) == 1500
    assert int((one(flat, top_k=100, top_p=0.25) > 0).sum()) == 25  # a share of the top-k


@given(logits=st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=20))
def test_top_k_1_is_temperature_0_at_any_temperature(logits):
    logits = torch.tensor(logits)
    greedy = one(logits, temperature=0)
    assert greedy[logits.argmax()] == 1 and greedy.sum() == 1
    for temperature in (5e-324, 1e-300, 1.0, 1e308):
        assert torch.equal(one(logits, top_k=1, temperature=temperature), greedy)


@pytest.mark.parametrize("temperature", [5e-324, sys.float_info.min, 1e-300, 1e-45, 1e-30])
def test_small_temperatures_reach_the_limit(temperature):
    assert one([0.25, 2.0, 1.999999, -7.0], temperature=temperature).tolist() == [0, 1, 0, 0]
    assert one([3.0, 1.0, 3.0], temperature=temperature).tolist() == [0.5, 0, 0.5]
    assert one([-3e38, 3e38], temperature=temperature).tolist() == [0, 1]


@pytest.mark.parametrize("top_p", [5e-324, 1e-300, 1e-9, 0.1])
def test_the_likeliest_always_stays(top_p):
    assert one([0.1, 0.2, 0.2, 0.0], top_p=top_p).tolist() == [0, 1, 0, 0]
    assert one([0.1, 0.2, 0.2, 0.0], min_p=1, top_p=top_p).tolist() == [0, 1, 0, 0]
    assert int((one(torch.zeros(1000), top_p=top_p) > 0).sum()) == max(1, round(top_p * 1000))


def test_top_p_and_min_p_by_hand():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for options, kept in (
        ({"top_p": 0.5}, 1),
        ({"top_p": 0.6}, 2),
        ({"top_p": 0.95}, 3),
        ({"min_p": 0.31}, 2),
        ({"top_k": 3}, 3),
        ({"temperature": 0}, 1),
        ({}, 4),
    ):
        assert int((one(logits, **options) > 0).sum()) == kept, options


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("sampling", SETTINGS)
def test_logits_that_are_not_finite_are_an_error(value, sampling):
    logits = torch.zeros(2, 9)
    logits[1, 4] = value
    for call in (probabilities, lambda x, s: sample(x, s, [one.generator() for one in s])):
        with pytest.raises(ValueError, match=f"not finite \\({value} for token 4\\)"):
            call(logits, [sampling] * 2)
        call(logits[:1], [sampling])


def test_draws_follow_the_distribution():
    probs = torch.tensor([0.6, 0.3, 0.0, 0.1, 0.0], dtype=torch.float64)
    count = 20_000
    uniforms = Sampling(seed=0).generator().random(count).tolist()
    found = draw(probs.expand(count, -1), uniforms).bincount(minlength=5)
    chance = probs[probs > 0] * count
    assert found[2] == found[4] == 0
    assert ((found[probs > 0] - chance) ** 2 / chance).sum() < 13.8  # χ² of 2 degrees, 1 in 1000
    edges = [0.0, 0.6001, 0.9001, 1 - 2**-53]
    assert draw(probs.expand(4, -1), edges).tolist() == [0, 1, 3, 3]
    assert draw(torch.tensor([[0.0, 0.0, 1.0, 0.0]]).double(), [0.0]).tolist() == [2]
    third = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    assert draw(third, [1 - 2**-53]).tolist() == [2]


def test_every_seed_has_a_stream_of_its_own():
    seeds = [0, 1, -1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64, -(2**64), 10**40]
    firsts = {tuple(Sampling(seed=s).generator(n).random(3)) for s in seeds for n in (0, 1)}
    assert len(firsts) == 2 * len(seeds)
    assert (
        Sampling(seed=10**40).generator(3).random() == Sampling(seed=10**40).generator(3).random()
    )
    assert Sampling().generator().random() != Sampling().generator().random()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1}, "temperature = -1"),
        ({"temperature": float("nan")}, "temperature = nan: must be finite"),
        ({"temperature": float("inf")}, "temperature = inf: must be finite"),
        ({"temperature": "1"}, "temperature = '1': must be a number"),
        ({"temperature": 10**400}, "temperature: too large"),
        ({"temperature": True}, "temperature = True: must be a number"),
        ({"top_p": 0}, "top_p = 0"),
        ({"top_p": None}, "top_p = None: must be a number"),
        ({"top_k": 2.0}, "top_k = 2.0: must be an integer"),
        ({"top_k": -1}, "top_k = -1"),
        ({"min_p": 2}, "min_p = 2"),
        ({"min_p": float("nan")}, "min_p = nan"),
        ({"seed": 1.5}, "seed = 1.5: must be an integer"),
        ({"seed": "7"}, "seed = '7': must be an integer"),
        ({"max_tokens": 0}, "max_tokens = 0"),
        ({"max_tokens": None}, "max_tokens = None: must be an integer"),
        ({"max_tokens": False}, "max_tokens = False"),
        ({"stop": ("",)}, "none empty"),
        ({"stop": [3]}, "must be text"),
        ({"stop": 3}, "must be text"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**options)


def test_settings_are_made_plain():
    made = Sampling(temperature=np.float32(0.5), top_k=np.int64(3), seed=np.int32(4), stop="ab")
    assert made == Sampling(temperature=0.5, top_k=3, seed=4, stop=["ab"])
    assert made.stop == ("ab",) and type(made.top_k) is int and hash(made)
    assert dsv4.Sampling is Sampling
