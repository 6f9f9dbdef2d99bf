"""Expert parallelism: a process holds E / ep of a layer's experts, and tokens come to them.

Every (token, expert) pair is a row. Rows are sorted by expert, so those for one process lie side by
side; all-to-all takes them there with their weights, the experts run as they do in one process, and
all-to-all brings the results back, where a token's are added in the order of its choice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dsv4.model.moe import MATRICES, Experts
from dsv4.train.parallel.collectives import exchange


class SpreadExperts(Experts):
    """The experts of this process, of a layer whose others lie with the others of a group:
    w1 and w3 [E / ep, i, d], w2 [E / ep, d, i]."""

    def __init__(self, experts: Experts, group: Any):
        nn.Module.__init__(self)
        self.limit, self.low, self.group = experts.limit, experts.low, group
        self.round_weight, self.round_input = experts.round_weight, experts.round_input
        for name in MATRICES:
            whole: Tensor = getattr(experts, name)
            own = whole.detach().chunk(group.size())[group.rank()]
            setattr(self, name, nn.Parameter(own.clone()))

    def forward(self, x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """x [tokens, d], indices and weights [tokens, k] → float32 [tokens, d]."""
        tokens, k = indices.shape
        order = indices.flatten().argsort(stable=True)  # [tokens·k], by expert
        sent, got, expert = self._counts(indices)
        rows = exchange(F.embedding(order // k, x), sent, got, self.group)
        weight = exchange(weights.flatten()[order].unsqueeze(1), sent, got, self.group)
        out = exchange(self._run(rows, expert, weight), got, sent, self.group)  # [tokens·k, d]
        back = torch.empty_like(order).scatter_(0, order, torch.arange(tokens * k, device=x.device))
        return F.embedding(back, out).view(tokens, k, -1).sum(1)

    def _counts(self, indices: Tensor) -> tuple[list[int], list[int], Tensor]:
        """How many rows go to each process and come from it, and the experts of those that come."""
        ways, held = self.group.size(), self.w1.shape[0]
        ours = torch.bincount(indices.flatten(), minlength=ways * held)
        theirs = torch.empty_like(ours)
        dist.all_to_all_single(theirs, ours, group=self.group)
        number = torch.arange(held, device=indices.device).repeat(ways)
        sent, got = (counts.view(ways, held).sum(1).tolist() for counts in (ours, theirs))
        return sent, got, number.repeat_interleave(theirs)

    def _run(self, rows: Tensor, expert: Tensor, weight: Tensor) -> Tensor:
        """rows [rows, d] → float32 [rows, d]. Where none came one of zeros runs, so that the
        experts have gradients here as they have elsewhere."""
        count = rows.shape[0]
        if not count:
            rows, weight = F.pad(rows, (0, 0, 0, 1)), F.pad(weight, (0, 0, 0, 1))
            expert = F.pad(expert, (0, 1))
        return super().forward(rows, expert.unsqueeze(1), weight)[:count]
