import pytest
import torch
import torch.nn.functional as F

from dsv4.ops import native
from dsv4.ops.surprise import surprise

pytestmark = pytest.mark.skipif(native.module() is None, reason="the native module is not built")


@pytest.mark.parametrize("words", [1, 37, 4100])
def test_it_is_the_cross_entropy_and_its_slope(trained, plain, words):
    logits = torch.randn(20, words) * 3
    targets = torch.randint(words, (20,))
    targets[3] = -100
    twin = logits.double().requires_grad_()
    wanted = F.cross_entropy(twin, targets, reduction="sum")
    (slope,) = torch.autograd.grad(wanted * 0.25, twin)
    for _ in range(2):  # the native twin, then the plain operator
        ours = logits.clone()
        found = surprise(ours, targets, torch.tensor(0.25))
        assert torch.allclose(found.double(), wanted, rtol=1e-5)
        assert torch.allclose(ours.double(), slope, atol=1e-6)
        assert torch.allclose(surprise(logits.clone(), targets, None).double(), wanted, rtol=1e-5)
        plain()


def test_what_is_not_finite_is_seen(trained):
    logits = torch.randn(3, 40)
    logits[1, 7] = torch.nan
    assert surprise(logits, torch.tensor([0, 1, 2]), torch.tensor(1.0)).isnan()
    assert logits[[0, 2]].isfinite().all()


def test_a_word_that_is_not_there_is_refused(trained):
    with pytest.raises(ValueError, match="target 40 of 40"):
        surprise(torch.randn(2, 40), torch.tensor([1, 40]), None)
