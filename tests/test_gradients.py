"""Every operator with a backward of its own, against finite differences in float64.

Definitions take float64 and go through gradcheck. In float32, plain and native, slopes along random
directions are compared with differences of the definition in float64.
"""

import ast
from pathlib import Path

import pytest
import torch

import dsv4
from dsv4.ops import attention, compress, experts, hyper, native, norm, products, rotary
from dsv4.quant.straight import straight
from dsv4.train.loss import linear_cross_entropy

needs_native = pytest.mark.skipif(
    native.module() is None or native.module().kernels() == "portable",
    reason="no native operators of training",
)
ELSEWHERE = {  # over several processes: tests/train/parallel/test_collectives.py
    "_Exchange",
    "_Gather",
    "_Tie",
}


def normal(*shape):
    return torch.randn(shape)


def norms():
    return [normal(66, 8), normal(8)], lambda x, w: norm.rms_norm(x, w, 1e-6)


def norms_without_weight():
    return [normal(66, 8)], lambda x: norm.rms_norm(x, None, 1e-6)


def rotations():
    phase = rotary.phases(torch.arange(22), rotary.frequencies(4, 1e4, None)).view(1, 22, 1, 2)
    return [normal(2, 22, 2, 8)], lambda x: rotary.rotate(x, phase)


def rotations_back():
    phase = rotary.phases(torch.arange(22), rotary.frequencies(4, 1e4, None)).view(1, 22, 1, 2)
    return [normal(2, 22, 2, 8)], lambda x: rotary.rotate(x, phase.conj())


def pools():
    return [normal(2, 3, 4, 8), normal(2, 3, 4, 8)], compress.pool


def chosen_experts():
    indices = torch.stack([torch.randperm(4)[:2] for _ in range(9)])
    given = normal(9, 8), torch.rand(9, 2), normal(5, 4, 8), normal(5, 8, 4), normal(5, 4, 8)

    def run(x, weights, w1, w2, w3):
        return experts.routed_experts(x, indices, weights, w1, w2, w3, 50.0)  # past every bend

    return list(given), run


def few_experts():
    """Fewer rows than experts."""
    indices = torch.tensor([[4, 2]])
    given = normal(1, 6), torch.rand(1, 2), normal(5, 4, 6), normal(5, 6, 4), normal(5, 4, 6)

    def run(x, weights, w1, w2, w3):
        return experts.routed_experts(x, indices, weights, w1, w2, w3, 50.0)

    return list(given), run


def linears():
    return [normal(33, 6), normal(5, 6)], products.linear


def groups():
    return [normal(33, 2, 6), normal(2, 5, 6)], products.grouped_linear


def coefficients(hc, d, out, scales):
    return [normal(out, hc * d) * 0.2, normal(scales), normal(out)]


def connections():
    rule = hyper.Rule(3, 1e-6, 1e-6)

    def run(x, y, fn, scale, base):
        u, write = hyper.read(x, fn, scale, base, rule)
        return write(u * 0.5 + y)

    return [normal(2, 3, 4, 6), normal(2, 3, 6), *coefficients(4, 6, 24, 3)], run


def heads():
    def run(x, fn, scale, base):
        return hyper.read_head(x, fn, scale, base, eps=1e-6, norm_eps=1e-6)

    return [normal(2, 3, 4, 6), *coefficients(4, 6, 4, 1)], run


def attention_case(picks):
    n, entries = 6, 5
    own = torch.arange(n)
    seen = torch.stack(((own - 3).clamp(min=0), own + 1), -1).expand(2, n, 2)
    visible = torch.stack((torch.zeros(n), own * entries // n), -1).long().expand(2, n, 2)
    where = torch.arange(entries)
    mask = (where >= visible[..., :1]) & (where < visible[..., 1:])
    picked = None
    if picks:
        order = torch.rand(2, n, entries).masked_fill(~mask, -1).topk(2).indices
        picked = order.masked_fill(~mask.gather(2, order), -1)
        mask = (picked.unsqueeze(3) == where).any(2)
    row = torch.arange(n)
    sight = (row >= seen[..., :1]) & (row < seen[..., 1:])

    def run(q, window, entries, sink):
        if native.trainer(q) is None:
            return attention.attend_and_mass(q, window, sight, entries.unsqueeze(1), mask, sink)[0]
        ranges = seen.int(), entries, visible.int(), None if picked is None else picked.int()
        return attention.attend_ranges(q, window, *ranges, sink)[0]

    return [normal(2, n, 3, 8), normal(2, n, 8), normal(2, entries, 8), normal(3)], run


def attention_to_all():
    return attention_case(picks=False)


def attention_to_some():
    return attention_case(picks=True)


def cross_entropies():
    targets = torch.tensor([3, -100, 0, 6, 2, 2])
    return [normal(6, 5), normal(7, 5)], lambda x, w: linear_cross_entropy(x, w, targets)


def cross_entropies_through_a_factor():
    targets = torch.tensor([3, -100, 0, 6, 2, 2])
    return [normal(6, 5), normal(7, 5)], lambda x, w: 0.3 * linear_cross_entropy(x, w, targets)


def nothing_rounded():
    """Straight through: what it sees through is the identity."""
    return [normal(3, 4)], lambda x: straight(x, lambda same: same.clone())


CASES = [
    norms,
    norms_without_weight,
    rotations,
    rotations_back,
    pools,
    chosen_experts,
    few_experts,
    linears,
    groups,
    connections,
    heads,
    attention_to_all,
    attention_to_some,
    cross_entropies,
    cross_entropies_through_a_factor,
    nothing_rounded,
]


def operators():
    """The name of every class of the package that is an autograd.Function, from its source."""
    for text in (file.read_text() for file in Path(dsv4.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(text)) if "autograd" in text else ():
            bases = map(ast.unparse, node.bases) if isinstance(node, ast.ClassDef) else ()
            if any(base.endswith("Function") for base in bases):
                yield node.name


def used(output):
    """The names of the operators of this package that a result came through."""
    seen, left = set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [before for before, _ in node.next_functions]
    return {type(node).__name__.removesuffix("Backward") for node in seen}


def exact(tensors):
    return [t.detach().double().requires_grad_() for t in tensors]


@needs_native
def test_every_operator_is_among_the_cases():
    found = set()
    for case in CASES:
        given, run = case()
        found |= used(run(*[t.requires_grad_() for t in given]))
    assert set(operators()) == ELSEWHERE | {name for name in found if name.startswith("_")}


@needs_native
def test_every_native_backward_is_among_the_operators():
    """Each `.._back` of the module is called by one of them."""
    called = "\n".join(file.read_text() for file in Path(products.__file__).parent.glob("*.py"))
    backs = [name for name in dir(native.module()) if name.endswith("_back")]
    assert len(backs) >= 6 and all(f"module.{name}(" in called for name in backs)


@pytest.mark.parametrize("case", CASES)
def test_definitions_have_the_slopes_of_finite_differences(case):
    given, run = case()
    assert torch.autograd.gradcheck(run, exact(given), fast_mode=True)


def test_a_product_of_its_own_backward_has_the_slopes_of_finite_differences():
    """`linear` uses it where the native twin runs, or to round."""
    given = exact([normal(3, 4, 6), normal(5, 6)])
    assert torch.autograd.gradcheck(lambda x, w: products._Linear.apply(x, w, False), given)


@pytest.mark.parametrize("twin", [pytest.param("native", marks=needs_native), "plain"])
@pytest.mark.parametrize("case", CASES)
def test_float32_has_the_slopes_of_finite_differences(case, twin, monkeypatch):
    """d/dt Σ slope · op(x + t · direction), of each input alone and of all together."""
    if twin == "plain":
        monkeypatch.setattr(native, "trainer", lambda *tensors: None)
    given, run = case()
    given = [t.requires_grad_() for t in given]
    found = run(*given)
    slope = torch.randn_like(found)
    grads = [g.double() for g in torch.autograd.grad(found, given, slope)]
    twins, step = exact(given), 1e-5

    def value(directions, by):
        moved = [t + by * way for t, way in zip(twins, directions, strict=True)]
        with torch.no_grad():
            return float((run(*moved) * slope.double()).sum())

    for moving in [*range(len(given)), None] * 3:
        ways = [
            torch.randn_like(t) if moving in (place, None) else torch.zeros_like(t)
            for place, t in enumerate(twins)
        ]
        difference = (value(ways, step) - value(ways, -step)) / (2 * step)
        ours = sum(float((g * way).sum()) for g, way in zip(grads, ways, strict=True))
        scale = sum(float((g * way).square().sum()) for g, way in zip(grads, ways, strict=True))
        assert abs(ours - difference) < 1e-4 * scale**0.5 + 1e-6, (moving, ours, difference)
