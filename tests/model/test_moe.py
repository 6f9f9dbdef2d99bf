"""The router at any logits: weights and gradients against the formula in float64."""

import mpmath
import pytest
import torch

from dsv4.model.moe import Gate, log_score
from dsv4.model.study import Study

EXTREMES = [
    [0.0, 1.0, -2.0],
    [-20.0, -20.0000019, -19.9999981],  # where the two forms meet
    [-90.0, -100.0, -95.0],
    [-104.0, -103.0, -105.0],
    [-300.0, -301.0, -310.0],
    [-1e4, -1e4 - 3, -1e4 + 2],
    [1e4, 9e3, -1e4],
    [20.0, 20.0000019, 87.0],
    [50.0, -500.0, -0.0],
]


def oracle(logits):
    """s / Σ s, s = √log(1 + e^x), with as many digits as it takes."""
    with mpmath.workdps(9000):
        scores = [mpmath.sqrt(mpmath.log1p(mpmath.exp(mpmath.mpf(x)))) for x in logits]
        return [float(score / sum(scores)) for score in scores]


@pytest.mark.parametrize("logits", EXTREMES)
def test_weights_are_the_formulas(logits):
    x = torch.tensor(logits, requires_grad=True)
    weights = log_score(x).softmax(-1)
    expected = torch.tensor(oracle(x.tolist()))
    assert torch.allclose(weights, expected, rtol=2e-6, atol=1e-30)
    weights[0].backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
def test_a_router_far_down_or_up_has_weights_and_finite_gradients(make_config, hashed, size):
    gate = Gate(make_config(), hashed=hashed, dtype=torch.float32)
    torch.nn.init.normal_(gate.weight)
    if hashed:
        gate.tid2eid.copy_(torch.randint(8, gate.tid2eid.shape))
    else:
        gate.bias.zero_()
    for sign in (-1, 1):
        x = torch.zeros(5, 64)
        x[:, 0] = size
        gate.weight.data[:, 0] = sign * (1 + torch.rand(8))  # every logit about ± size
        study = Study()
        _, weights = gate(x, torch.arange(5), study)
        assert torch.allclose(weights.sum(1), torch.full((5,), gate.scaling), rtol=1e-5)
        (weights[:, 0] + study.log_scores.softmax(-1)[:, 0]).sum().backward()
        assert gate.weight.grad.isfinite().all()
        gate.weight.grad = None


def test_weights_are_what_they_were_where_nothing_underflowed(make_config):
    gate = Gate(make_config(), hashed=False, dtype=torch.float32)
    torch.nn.init.normal_(gate.weight)
    gate.bias.normal_()
    x = torch.randn(200, 64)
    indices, weights = gate(x, None)
    scores = torch.nn.functional.softplus(x @ gate.weight.T).sqrt()
    assert torch.equal(indices, (scores + gate.bias).topk(3).indices)
    chosen = scores.gather(1, indices)
    assert torch.allclose(weights, gate.scaling * chosen / chosen.sum(1, True), rtol=2e-6)


def test_infinite_logits_are_decided():
    infinite = torch.inf
    assert log_score(torch.tensor([-infinite, 0.0])).softmax(-1).tolist() == [0.0, 1.0]
    for logits in ([infinite, 0.0], [-infinite, -infinite], [torch.nan, 0.0]):
        assert log_score(torch.tensor(logits)).softmax(-1).isnan().all()
