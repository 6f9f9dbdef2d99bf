import pytest
import torch

import dsv4
from dsv4.generation import prefill


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


def test_bad_prompts(model):
    for prompt, words in (([], "no tokens"), ([5] * 4097, "4097 tokens, the context is 4096")):
        with pytest.raises(ValueError, match=words):
            dsv4.generate(model, [prompt], max_tokens=1)
    with pytest.raises(ValueError, match="pass the tokenizer"):
        dsv4.generate(model, "text")
    foreign = dsv4.Tokenizer.deepseek()
    for prompt in ("text", [5, 6]):
        with pytest.raises(ValueError, match="this is another model's tokenizer"):
            dsv4.generate(model, prompt, foreign, max_tokens=1)


def test_the_end_of_the_context_ends_the_text(make_model, make_ids):
    model = make_model(max_position_embeddings=40)
    found = dsv4.generate(model, make_ids(1, 36)[0].tolist(), seed=1, max_tokens=50)
    assert found.finish_reason == "stop" or len(found.ids) == 5


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 1}, {"seed": 2**64 + 1}])
def test_broken_weights_are_an_error(make_model, options):
    model = make_model()
    assert len(dsv4.generate(model, [1, 2], max_tokens=2, **options).ids) <= 2
    model.head.weight.data[7, 3] = float("nan")
    with pytest.raises(ValueError, match="logits are not finite"):
        dsv4.generate(model, [1, 2], max_tokens=2, **options)
