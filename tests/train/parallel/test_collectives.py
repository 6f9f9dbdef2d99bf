"""Collectives with gradients, against finite differences in float64 that all processes take part
in."""

import processes
import torch
import torch.distributed as dist

from dsv4.train.parallel.collectives import exchange, gather, tie

COUNT, STEP = 2, 1e-5
SENT = [[1, 2], [0, 3]]  # rows from one process to another, one of them none


def exchanged(number, x):
    return exchange(x, SENT[number], [row[number] for row in SENT], dist.group.WORLD)


def gathered(number, x):
    return gather(x, dist.group.WORLD).square()


def tied(number, x):
    return tie(x * 2, [x])


def differences(number):
    """Of Σ over processes of slope · op(x): each process's slopes, and their differences."""
    torch.manual_seed(number)
    found = {}
    for run in (exchanged, gathered, tied):
        x = torch.randn(3, 2, dtype=torch.float64).requires_grad_()
        y = run(number, x)
        slope = torch.randn_like(y)
        (y * slope).sum().backward()
        wanted = torch.zeros(COUNT, x.numel(), dtype=torch.float64)
        for process in range(COUNT):
            for place in range(x.numel()):
                way = torch.zeros_like(x)
                if process == number:
                    way.view(-1)[place] = STEP
                with torch.no_grad():
                    up, down = (run(number, x + by) for by in (way, -way))
                    total = ((up - down) * slope).sum() / (2 * STEP)
                dist.all_reduce(total)
                wanted[process, place] = total
        found[run.__name__] = x.grad.flatten(), wanted[number]
    return found


def test_collectives_have_the_slopes_of_finite_differences():
    for found in processes.run(COUNT, differences):
        assert len(found) == 3
        for name, (ours, wanted) in found.items():
            assert ours.abs().max() > 0 and torch.allclose(ours, wanted, atol=1e-8), name
