import itertools

import formats
import pytest
import torch

from dsv4.ops import native
from dsv4.ops.attention import attend, attend_and_mass, attend_ranges, attend_rounded


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


needs_native = pytest.mark.skipif(native.module() is None, reason="the native module is not built")


def ranges_case(n, heads, c, entries, picks):
    """Two sequences; queries see up to 7 window rows, and entries from a moving start, or none."""
    b, keys, k = 2, n + 3, 4
    tensors = [torch.randn(b, n, heads, c), torch.randn(b, keys, c), torch.randn(b, entries, c)]
    tensors = [t.requires_grad_() for t in (*tensors, torch.randn(heads))]
    own = torch.arange(n) + 4
    seen = torch.stack((torch.stack((own - 7, own - 2)), own.expand(2, -1)), -1).clamp(min=0).int()
    high = (torch.arange(n) * entries // n).expand(2, -1)
    low = torch.stack((torch.zeros(n), (torch.arange(n) >= n // 2) * (entries // 3))).long()
    visible = torch.stack((low, high), -1).int()
    entry = torch.arange(entries)
    mask = (entry >= visible[..., :1]) & (entry < visible[..., 1:])  # [b, n, entries]
    picked = None
    if picks:
        order = torch.rand(b, n, entries).masked_fill(~mask, -1).topk(k).indices
        picked = order.masked_fill(~mask.gather(2, order), -1)
        taken = torch.zeros(b, n, entries + 1, dtype=torch.bool)
        mask = taken.scatter_(2, picked.masked_fill(picked < 0, entries), True)[..., :-1]
        picked = picked.int()
    row = torch.arange(keys)
    sight = (row >= seen[..., :1]) & (row < seen[..., 1:])
    return tensors, seen, visible, picked, sight, mask


@needs_native
@pytest.mark.parametrize("picks", [False, True])
@pytest.mark.parametrize(("n", "heads", "c"), [(70, 3, 32), (33, 40, 24), (1, 130, 64)])
def test_the_native_twin_is_the_plain_operator_in_float64(trained, n, heads, c, picks):
    (q, window, entries, sink), seen, visible, picked, sight, mask = ranges_case(
        n, heads, c, 29, picks
    )
    given = q, window, entries, sink
    found, mass = attend_ranges(q, window, seen, entries, visible, picked, sink, with_mass=True)
    slope = torch.randn_like(found)
    grads = torch.autograd.grad(found, given, slope)
    twins = [t.detach().double().requires_grad_() for t in given]
    wanted, per_entry = attend_and_mass(
        twins[0], twins[1], sight, twins[2].unsqueeze(1), mask, twins[3]
    )
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    if picked is not None:
        there = picked >= 0
        per_entry = per_entry.gather(2, picked.clamp(min=0).long()) * there
    assert torch.allclose(mass.double(), per_entry, atol=1e-5)
    theirs = torch.autograd.grad(wanted, twins, slope.double())
    for ours, other in zip(grads, theirs, strict=True):
        assert torch.allclose(ours.double(), other, atol=1e-4)


@needs_native
def test_the_native_twin_has_one_result_with_any_threads(kernels, monkeypatch):
    module = native.module()
    monkeypatch.setattr(native, "trainer", lambda *tensors: module)
    (q, window, entries, sink), seen, visible, picked, *_ = ranges_case(90, 4, 32, 40, True)
    results = []
    for threads in (1, 2):
        module.set_threads(threads)
        o, _ = attend_ranges(q, window, seen, entries, visible, picked, sink)
        results.append((o, *torch.autograd.grad(o.square().sum(), (q, window, entries, sink))))
    module.set_threads(torch.get_num_threads())
    assert all(one.equal(other) for one, other in zip(*results, strict=True))


@needs_native
def test_a_window_alone_and_a_key_that_is_no_number(trained):
    (q, window, _, sink), seen, *_ = ranges_case(40, 4, 32, 5, False)
    with torch.no_grad():
        window[1, 20, 3] = torch.nan
    o, mass = attend_ranges(q, window, seen, None, None, None, sink)
    assert mass is None and o[0].isfinite().all()
    sees = (seen[1, :, 0] <= 20) & (seen[1, :, 1] > 20)
    assert o[1].isnan().any(-1).any(-1)[sees].all()


@needs_native
def test_ranges_that_reach_too_far_are_refused(trained):
    (q, window, entries, sink), seen, visible, picked, *_ = ranges_case(40, 4, 32, 9, True)
    with pytest.raises(ValueError, match="window rows reach 31 of 30"):
        attend_ranges(q, window[:, :30], seen, entries, visible, picked, sink)
    picked[0, 3, 0] = 9
    with pytest.raises(ValueError, match="picked entries reach 9 of 8"):
        attend_ranges(q, window, seen, entries, visible, picked, sink)


def test_attention_has_the_gradients_of_finite_differences():
    """In float64, of which there is no native twin: the definition itself."""
    given = torch.randn(1, 3, 2, 4), torch.randn(1, 5, 4), torch.randn(1, 1, 6, 4), torch.randn(2)
    inputs = [t.double().requires_grad_() for t in given]
    mask = torch.rand(1, 3, 6) > 0.4

    def run(q, window, entries, sink):
        return attend_and_mass(q, window, None, entries, mask, sink)[0]

    assert torch.autograd.gradcheck(run, inputs)
