"""A reply that is cut anywhere goes on as if it had never been."""

import pytest

from dsv4.checkpoint.load import packaged
from dsv4.engine.constraint import Constraints
from dsv4.engine.request import Job
from dsv4.sampling import Sampling
from dsv4.tokenizer import Tokenizer

from .conftest import Heard

GRAMMAR = {"type": "structural_tag", "format": {"type": "regex", "pattern": "[a-f]{3}-[a-z ]{40}"}}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(packaged())


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"number": 3},
        {"frequency_penalty": 1.5, "presence_penalty": 0.5, "repetition_penalty": 1.3},
        {"grammar": GRAMMAR},
        {"sampling": Sampling(temperature=0, max_tokens=24)},
        {"logprobs": 2},
    ],
    ids=str,
)
def test_the_rest_is_the_same(make_engine, nano, tokenizer, more):
    config = nano.config
    constraints = Constraints(tokenizer, config.vocab_size, [config.eos_token_id])
    engine = make_engine(constraints=constraints)
    ids = [0, *tokenizer.encode("The dog went to the park and")]
    job = {"ids": ids, "sampling": Sampling(seed=7, max_tokens=24)} | more

    def run(**changes):
        heard = Heard()
        engine.submit(Job(**(job | changes)), heard)
        assert heard.wait().end.reason in ("stop", "length"), heard.end
        return heard

    whole = run()
    assert len(whole.ids) > 12
    for cut in (1, 5, 12):
        left = {
            "sampling": Sampling(
                temperature=job["sampling"].temperature, seed=7, max_tokens=24 - cut
            )
        }
        rest = run(ids=[*ids, *whole.ids[:cut]], said=cut, **left)
        assert rest.ids == whole.ids[cut:]
        if "logprobs" in more:
            assert rest.told == whole.told[cut:]


def test_without_said_it_is_another_reply(make_engine, tokenizer):
    """So the test above can fail: random numbers begin anew."""
    engine = make_engine()
    ids = [0, *tokenizer.encode("The dog went to the park and")]
    sampling = Sampling(seed=7, max_tokens=24)
    whole, rest = Heard(), Heard()
    engine.submit(Job(ids, sampling), whole)
    cut = whole.wait().ids[:5]
    engine.submit(Job([*ids, *cut], sampling), rest)
    assert rest.wait().ids[:19] != whole.ids[5:]


@pytest.mark.parametrize("said", [-1, 3, 4])
def test_what_is_refused(make_engine, said):
    with pytest.raises(ValueError, match="said = "):
        make_engine().submit(Job([1, 2, 3], said=said), Heard())
