import itertools

import formats
import pytest
import torch

from dsv4.ops.attention import attend, attend_rounded


@pytest.mark.parametrize("own", [False, True])
def test_attend_is_a_softmax_with_a_sink(own):
    b, n, heads, c, keys, entries = 2, 3, 4, 8, 5, 6
    q, window = torch.randn(b, n, heads, c), torch.randn(b, keys, c)
    compressed = torch.randn(b, n if own else 1, entries, c)
    window_mask, mask = torch.rand(1, n, keys) < 0.7, torch.rand(b, n, entries) < 0.5
    sink = torch.randn(heads)
    found = attend(q, window, window_mask, compressed, mask, sink)
    for i in range(b):
        for t in range(n):
            seen = torch.cat(
                (window[i][window_mask[0, t]], compressed[i, t if own else 0][mask[i, t]])
            ).double()
            for h in range(heads):
                weights = (seen @ q[i, t, h].double() * c**-0.5).exp()
                expected = weights @ seen / (weights.sum() + sink[h].double().exp())
                assert torch.allclose(found[i, t, h].double(), expected, atol=1e-5)


def test_a_query_that_sees_nothing_else_falls_to_the_sink():
    q, window = torch.randn(1, 1, 2, 4), torch.randn(1, 3, 4)
    nothing = torch.zeros(1, 1, 3, dtype=torch.bool)
    for op in (attend, attend_rounded):
        assert not op(q, window, nothing, None, None, torch.zeros(2)).any()


@pytest.mark.parametrize("sink", [-2.0, 0.5, 60.0])
def test_rounded_attention_against_its_definition(sink):
    """bfloat16 operands, scores in float32, bf16 exponentials, an unrounded denominator."""
    generator = torch.Generator().manual_seed(0)
    b, n, heads, c = 2, 3, 4, 8
    q = torch.randn(b, n, heads, c, generator=generator).bfloat16()
    window = torch.randn(b, 5, c, generator=generator).bfloat16()
    entries = torch.randn(b, n, 6, c, generator=generator).bfloat16()
    mask = torch.rand(1, n, 5, generator=generator) > 0.3
    mask[..., 0] = True
    sinks = torch.full((heads,), sink)
    found = attend_rounded(q, window, mask, entries, None, sinks)
    assert found.dtype is torch.bfloat16
    equal, without = [], []
    for i, t, h in itertools.product(range(b), range(n), range(heads)):
        keys = torch.cat((window[i][mask[0, t]], entries[i, t])).double()
        scores = keys @ q[i, t, h].double() * c**-0.5
        weights = (scores - scores.max()).exp()
        total = weights.sum() + torch.tensor(sink).double().sub(scores.max()).exp()
        for exponentials, results in ((formats.bf16(weights), equal), (weights, without)):
            expected = formats.bf16(exponentials @ keys / total)
            results.append(found[i, t, h].double() == expected)
    equal, without = (torch.cat(results).double().mean() for results in (equal, without))
    assert equal > 0.95 and without < 0.9
