import math

import torch

from dsv4.config import YARN
from dsv4.ops import rotary


def test_release_frequencies_interpolate_between_pairs_15_and_25():
    plain = rotary.frequencies(64, 160000.0, None)
    scaled = rotary.frequencies(64, 160000.0, YARN)
    assert torch.equal(plain[:16], scaled[:16])
    assert torch.allclose(plain[25:] / 16, scaled[25:])
    assert ((scaled[16:25] < plain[16:25]) & (scaled[16:25] > plain[16:25] / 16)).all()


def test_rotate_turns_neighbouring_pairs_of_the_last_channels():
    x, freqs = torch.randn(2, 3, 6), rotary.frequencies(4, 100.0, None)
    positions = torch.tensor([0, 5, 1000])
    turned = rotary.rotate(x, rotary.phases(positions, freqs))
    assert torch.equal(turned[..., :2], x[..., :2]) and torch.equal(turned[:, 0], x[:, 0])
    for t, position in enumerate(positions.tolist()):
        for j, f in enumerate((1.0, 0.1)):
            a, b = x[:, t, 2 + 2 * j].double(), x[:, t, 3 + 2 * j].double()
            angle = position * f
            expected = a * math.cos(angle) - b * math.sin(angle)
            assert torch.allclose(turned[:, t, 2 + 2 * j].double(), expected, atol=1e-4)


def test_the_conjugate_turns_back():
    x = torch.randn(4, 8)
    phase = rotary.phases(torch.arange(4), rotary.frequencies(8, 10.0, None))
    assert torch.allclose(rotary.rotate(rotary.rotate(x, phase), phase.conj()), x, atol=1e-6)
