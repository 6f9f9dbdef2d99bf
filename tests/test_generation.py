import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dsv4
from dsv4.generation import Sampling, draw, prefill, probabilities


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(spread=0.2)


def greedy_by_forward(model, ids, steps):
    ids, out = list(ids), []
    for _ in range(steps):
        with torch.no_grad():
            token = int(model(torch.tensor([ids], device=model.device))[0, -1].argmax())
        if token == model.config.eos_token_id:
            break
        ids.append(token)
        out.append(token)
    return out


def test_greedy_equals_the_argmax_of_repeated_forwards(model, make_ids):
    prompts = [make_ids(1, n, seed=n)[0].tolist() for n in (5, 150, 33)]
    expected = [greedy_by_forward(model, prompt, 12) for prompt in prompts]
    alone = [dsv4.generate(model, p, temperature=0, max_tokens=12).ids for p in prompts]
    together = dsv4.generate(model, prompts, temperature=0, max_tokens=12)
    assert alone == expected and [one.ids for one in together] == expected


def test_a_seed_repeats_and_a_neighbour_changes_nothing(model, make_ids):
    prompts = make_ids(3, 20).tolist()
    first, again = (dsv4.generate(model, prompts, seed=7, max_tokens=20) for _ in range(2))
    assert first == again
    alone = dsv4.generate(model, prompts[0], seed=7, max_tokens=20)
    assert alone == first[0]
    assert len({tuple(one.ids) for one in first}) == 3


def test_a_long_prompt_is_fed_in_pieces(model, make_ids, monkeypatch):
    ids = make_ids(2, 300)
    whole = prefill(model, ids.tolist(), model.new_cache(2))
    monkeypatch.setattr("dsv4.generation.PREFILL", 64)
    cache = model.new_cache(2)
    ragged = prefill(model, [ids[0].tolist(), ids[1, :130].tolist()], cache)
    assert cache.lengths == [300, 130]
    assert (ragged[0] - whole[0]).abs().max() <= 1e-4 * whole.std()


@given(
    logits=st.lists(st.floats(-8, 8), min_size=2, max_size=30),
    temperature=st.floats(0.1, 3),
    top_k=st.integers(0, 10),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.9),
)
def test_filters_keep_the_least_set_that_qualifies(logits, temperature, top_k, top_p, min_p):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    found = probabilities(torch.tensor(logits), sampling)
    probs = (torch.tensor(logits).double() / temperature).softmax(0)
    assert abs(found.sum() - 1) < 1e-5
    kept = found > 0
    assert kept[int(probs.argmax())] or (probs.max() - probs[kept]).abs().min() < 1e-6
    if kept.sum() < len(logits):  # nothing that was cut weighs more than what was kept
        assert probs[~kept].max() <= probs[kept].min() + 1e-6
    if top_k and top_k < len(logits) and len(set(logits)) == len(logits):
        assert kept.sum() <= top_k
    ratio = found[kept].double() / probs[kept]
    assert torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-3)


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
        assert int((probabilities(logits, Sampling(**options)) > 0).sum()) == kept, options


def test_draws_follow_the_distribution():
    logits, sampling = torch.tensor([0.6, 0.3, 0.1]).log(), Sampling(seed=0)
    generator = sampling.generator()
    counts = torch.tensor([draw(logits, sampling, generator) for _ in range(4000)]).bincount()
    assert torch.allclose(counts / 4000, torch.tensor([0.6, 0.3, 0.1]), atol=0.03)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1}, "temperature = -1"),
        ({"top_p": 0}, "top_p = 0"),
        ({"min_p": 2}, "min_p = 2"),
        ({"max_tokens": 0}, "max_tokens = 0"),
        ({"stop": ("",)}, "none empty"),
        ({"stop": ""}, "none empty"),
        ({"stop": (3,)}, "none empty"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**options)


def test_bad_prompts(model):
    for prompt, words in (([], "no tokens"), ([5] * 4097, "4097 tokens, the context is 4096")):
        with pytest.raises(ValueError, match=words):
            dsv4.generate(model, [prompt], max_tokens=1)
    with pytest.raises(ValueError, match="pass the tokenizer"):
        dsv4.generate(model, "text")


def test_the_end_of_the_context_ends_the_text(make_model, make_ids):
    model = make_model(max_position_embeddings=40)
    found = dsv4.generate(model, make_ids(1, 36)[0].tolist(), seed=1, max_tokens=50)
    assert found.finish_reason == "stop" or len(found.ids) == 5
