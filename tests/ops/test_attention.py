import pytest
import torch

from dsv4.ops.attention import attend


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
    assert not attend(q, window, nothing, None, None, torch.zeros(2)).any()
