"""AdamW against torch's in float64, and to the bit over any split of a tensor."""

import pytest
import torch

from dsv4.ops import adam, native

RULE = adam.Rule(lr=1e-2, betas=(0.9, 0.95), eps=1e-20, decay=0.1)


def drawn(count, seed):
    """A weight, and the slopes of three steps."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, generator=generator)
    slopes = [torch.randn(count, generator=generator) * 10.0 ** (k - 2) for k in range(3)]
    slopes[0][:2] = 0  # moments of 0: nothing moves but by decay
    return weight, slopes


def moved(weight, slopes):
    """What they make of a weight and its moments."""
    held = weight.clone(), torch.zeros_like(weight), torch.zeros_like(weight)
    for number, slope in enumerate(slopes, 1):
        adam.step(held[0], slope, *held[1:], RULE, number)
    return held


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("count", [1, 15, 16, 1000, (1 << 14) + 5])
def test_it_is_torchs_adamw(plain, count, monkeypatch):
    if plain:
        monkeypatch.setattr(native, "trainer", lambda *tensors: None)
    weight, slopes = drawn(count, seed=count)
    theirs = torch.nn.Parameter(weight.double())
    settings = {"lr": RULE.lr, "betas": RULE.betas, "eps": RULE.eps, "weight_decay": RULE.decay}
    rule = torch.optim.AdamW([theirs], **settings)
    for slope in slopes:
        theirs.grad = slope.double()
        rule.step()
    found = moved(weight, slopes)
    expected = theirs.detach(), rule.state[theirs]["exp_avg"], rule.state[theirs]["exp_avg_sq"]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("cut", [1, 7, 16, 23, 333])
def test_a_part_has_the_bits_of_the_whole(cut):
    weight, slopes = drawn(1000, seed=1)
    whole = moved(weight, slopes)
    for part in (slice(0, cut), slice(cut, None)):
        for one, other in zip(moved(weight[part], [s[part] for s in slopes]), whole, strict=True):
            assert torch.equal(one, other[part])


def test_shapes_that_differ_are_refused():
    module = native.trainer(torch.ones(1))
    if module is None:
        pytest.skip("no native operators here")
    with pytest.raises(ValueError, match="mean"):
        module.adam(*[torch.zeros(n) for n in (4, 4, 5, 4)], 1, 0.9, 0.95, 1e-3, 1, 1e-20)
