"""The native draw against the plain operator: the same token, whatever the logits and the cuts."""

import math

import numpy as np
import pytest
import torch

from dsv4.ops import draw, native
from dsv4.ops.draw import Cuts, Surveyed, drawn, survey

pytestmark = pytest.mark.skipif(native.module() is None, reason="the native module is not built")

LIMIT = 1 - 2**-53
KINDS = ["steep", "flat", "equal", "rounded", "masked", "few", "zeros"]


@pytest.fixture
def plain(monkeypatch):
    """Calls an operator without its native twin."""

    def call(operator, *args):
        with monkeypatch.context() as m:
            m.setattr(native, "module", lambda: None)
            return operator(*args)

    return call


def logits_of(kind, rows, vocab, rng):
    """As models, penalties and grammars make them."""
    x = rng.standard_normal((rows, vocab)).astype(np.float32)
    if kind == "steep":
        x *= 8
    elif kind == "flat":
        x *= 0.01
    elif kind == "equal":
        x[:] = x[:, :1]
    elif kind == "rounded":  # many ties, zeros of either sign among them
        x = np.round(x * 3) / 3
    elif kind == "masked":
        x[rng.random(x.shape) < 0.7] = -np.inf
    elif kind == "few":  # fewer than many a top-k
        x[rng.random(x.shape) > 3 / vocab] = -np.inf
    elif kind == "zeros":
        x = np.where(rng.random(x.shape) < 0.5, np.float32(0), np.float32(-0.0))
    x[np.arange(rows), rng.integers(vocab, size=rows)] = np.abs(x[:, 0]).clip(max=9)
    return torch.from_numpy(x)


def cuts_of(rows, vocab, rng):
    """Every mixture of settings."""
    k = rng.choice([1, 2, 40, 64, 300, vocab // 9 + 1, vocab - 1, vocab, vocab, vocab], size=rows)
    return Cuts(
        rng.choice([1.0, 1.0, 0.8, 0.1, 3.0, draw.LOWEST], size=rows).tolist(),
        k.clip(1, vocab).tolist(),
        rng.choice([math.inf, 0.95, 0.5, 1e-9], size=rows).tolist(),
        rng.choice([0.0, 0.0, 0.05, 1.0], size=rows).tolist(),
    )


def uniforms_of(rows, rng):
    return rng.choice([0.0, LIMIT, 0.5, *rng.random(9)], size=rows).tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [1, 2, 17, 300, 1000, 8192])
def test_the_same_token_as_the_plain_operator(kernels, threads, plain, kind, vocab):
    rng = np.random.default_rng(vocab)
    for rows in (1, 2, 5, 32):
        logits, cuts = logits_of(kind, rows, vocab, rng), cuts_of(rows, vocab, rng)
        uniforms = uniforms_of(rows, rng)
        found = drawn(logits, cuts, uniforms)
        assert torch.equal(found, plain(drawn, logits, cuts, uniforms)), (cuts, uniforms)
        for row in range(0, rows, 7):  # and in no company
            one = drawn(logits[row : row + 1], cuts.of([row]), uniforms[row : row + 1])
            assert one.item() == found[row]


@pytest.mark.parametrize("kind", ["steep", "flat", "rounded", "few"])
def test_the_vocabulary_of_the_release(plain, kind):
    rng = np.random.default_rng(7)
    logits, cuts = logits_of(kind, 12, 129_280, rng), cuts_of(12, 129_280, rng)
    uniforms = uniforms_of(12, rng)
    assert torch.equal(drawn(logits, cuts, uniforms), plain(drawn, logits, cuts, uniforms))
    assert survey(logits) == plain(survey, logits)


def test_shares_that_end_on_a_token(plain):
    """Where top-p and the random number fall exactly on sums, one rounding would tell."""
    logits = torch.zeros(1, 64)
    for k in (8, 64):
        for share in range(1, 65):
            cuts = Cuts([1.0], [k], [share / 64], [0.0])
            for step in range(0, 64, 5):
                call = logits, cuts, [step / 64]
                assert torch.equal(drawn(*call), plain(drawn, *call))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [1, 15, 16, 1023, 1041, 8192])
def test_a_survey_sees_what_torch_sees(kernels, threads, plain, kind, vocab):
    logits = logits_of(kind, 9, vocab, np.random.default_rng(vocab))
    assert survey(logits) == plain(survey, logits)
    assert survey(logits).finite == logits.isfinite().all(-1).tolist()
    for place in {0, vocab // 2, vocab - 1}:
        for value in (math.nan, math.inf, -math.inf):
            broken = logits.clone()
            broken[4, place] = value
            found, wanted = survey(broken), plain(survey, broken)
            assert not found.finite[4] and not wanted.finite[4]
            others = [row for row in range(9) if row != 4]
            for mine, theirs in zip(found, wanted, strict=True):
                assert [mine[row] for row in others] == [theirs[row] for row in others]
            assert math.isnan(found.highest[4]) == math.isnan(value)


def test_nothing_that_may_come_is_not_read_past(kernels):
    """The caller looks first; what it gets otherwise is an id all the same."""
    for logits in (torch.full((3, 70), -math.inf), torch.full((3, 70), math.nan)):
        for k in (1, 69, 70):
            cuts = Cuts([1.0] * 3, [k] * 3, [0.5] * 3, [0.1] * 3)
            assert (
                (drawn(logits, cuts, [0.5] * 3) >= 0) & (drawn(logits, cuts, [0.5] * 3) < 70)
            ).all()


def test_other_logits_stay_with_the_plain_operator():
    for dtype in (torch.float64, torch.bfloat16):
        logits = (torch.randn(3, 50) * 4).to(dtype)
        cuts = Cuts([1.0] * 3, [5] * 3, [0.9] * 3, [0.0] * 3)
        assert torch.equal(drawn(logits, cuts, [0.3] * 3), drawn(logits.float(), cuts, [0.3] * 3))
        assert isinstance(survey(logits), Surveyed)
    turned = torch.randn(50, 3).T * 4
    assert torch.equal(drawn(turned, cuts, [0.3] * 3), drawn(turned.contiguous(), cuts, [0.3] * 3))


def test_what_does_not_fit_is_refused():
    module = native.module()
    x, ids, weights = np.zeros((1, 5), np.float32), np.zeros(2, np.int32), np.zeros(2)
    one = np.ones(1)
    for count in (0, 6):
        with pytest.raises(ValueError, match=f"{count} tokens of 5"):
            module.weigh(x, np.array([count]), ids, weights, one)
    with pytest.raises(ValueError, match="ids has shape"):
        module.weigh(x, np.array([3]), ids, weights, one)
    with pytest.raises(ValueError, match="uniforms has shape"):
        module.pick(x, np.array([2]), ids, weights, one, one, np.ones(2), np.zeros(1, np.int64))
