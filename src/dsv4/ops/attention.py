"""Attention of one block of queries to window and compressed entries, with a sink.

p = softmax over window ∪ entries of q·k / √c, with exp(sink_h) added to the denominator only
o = Σ_s p_s · k_s   (one head of entries serves as key and value for all query heads)
Rounded: o = Σ_s bf16(e_s) · k_s / (Σ_s e_s + exp(sink − top)), e_s = exp(q·k_s / √c − top)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsv4.ops import native
from dsv4.ops.wide import wide


def attend(
    q: Tensor,
    window: Tensor,
    window_mask: Tensor | None,
    entries: Tensor | None,
    entries_mask: Tensor | None,
    sink: Tensor,
) -> Tensor:
    """q [b, n, H, c]; window [b, keys, c] → [b, n, H, c].

    `entries` is [b, 1, E, c] (every query of the block reads the same) or [b, n, E, c] (each query
    its own). A mask [b or 1, n, keys] is True where a query may look; None means everywhere.
    """
    return attend_and_mass(q, window, window_mask, entries, entries_mask, sink)[0]


def attend_and_mass(
    q: Tensor,
    window: Tensor,
    window_mask: Tensor | None,
    entries: Tensor | None,
    entries_mask: Tensor | None,
    sink: Tensor,
) -> tuple[Tensor, Tensor]:
    """`attend`, and each entry's attention summed over heads: float32 [b, n, E], a constant."""
    b, n, heads, c = q.shape
    scaled = q * c**-0.5
    sources = [(window.unsqueeze(1), window_mask)]
    if entries is not None:
        sources.append((entries, entries_mask))
    scores = [_scores(scaled, keys, mask) for keys, mask in sources]
    scores.append(sink.view(1, 1, heads, 1).expand(b, n, heads, 1))
    probs = torch.softmax(torch.cat(scores, dim=-1), dim=-1)
    first = window.shape[1]
    mass = probs.detach()[..., first:-1].sum(2)  # [b, n, E]
    return _weighted(probs.to(q.dtype), [keys for keys, _ in sources]), mass


def attend_rounded(
    q: Tensor,
    window: Tensor,
    window_mask: Tensor | None,
    entries: Tensor | None,
    entries_mask: Tensor | None,
    sink: Tensor,
) -> Tensor:
    """`attend` as the release rounds: products of bfloat16 q and keys sum in float32, exponentials
    (top: the query's highest score, sink apart) are rounded to bfloat16 before they multiply the
    values, and the denominator sums them before that.
    """
    scale, exact = q.shape[-1] ** -0.5, q.float()
    sources = [(window.float().unsqueeze(1), window_mask)]
    if entries is not None:
        sources.append((entries.float(), entries_mask))
    scores = torch.cat([_scores(exact, keys, mask) * scale for keys, mask in sources], dim=-1)
    lowest = torch.finfo(torch.float32).min  # of a query that sees nothing
    top = scores.amax(-1, keepdim=True).clamp(min=lowest)  # [b, n, H, 1]
    exponentials = torch.exp(scores - top)
    total = exponentials.sum(-1, keepdim=True) + torch.exp(sink.unsqueeze(-1) - top)
    rounded = exponentials.to(torch.bfloat16).float()
    return (_weighted(rounded, [keys for keys, _ in sources]) / total).to(q.dtype)


def attend_ranges(
    q: Tensor,
    window: Tensor,
    seen: Tensor,
    entries: Tensor | None,
    visible: Tensor | None,
    picked: Tensor | None,
    sink: Tensor,
    *,
    with_mass: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The native twin of `attend_and_mass`, for all queries at once: nothing of [queries × keys] is
    kept, and the backward makes the probabilities again. Needs `native.trainer`.

    q [b, n, H, c]; window [b, keys, c], of which each query sees the rows `seen` int32 [b, n, 2]
    (low, high); entries [b, E, c], of which it sees `visible` int32 [b, n, 2] or, of those, what it
    `picked` int32 [b, n, k] (then −1; all, where it sees no more than k) → [b, n, H, c], and the
    mass float32 [b, n, k or E] where it is wanted.
    """
    o, mass = _AttendRanges.apply(q, window, entries, sink, seen, visible, picked, with_mass)
    return o, mass


CHANNELS = 32  # the native twin takes multiples of this


class _AttendRanges(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        window: Tensor,
        entries: Tensor | None,
        sink: Tensor,
        seen: Tensor,
        visible: Tensor | None,
        picked: Tensor | None,
        with_mass: bool,
    ) -> tuple[Tensor, Tensor | None]:
        module = native.trainer(q)
        assert module is not None
        b, n, heads, c = q.shape
        extra = -c % CHANNELS
        wide_q, wide_window = _widened(q, extra), _widened(window, extra)
        wide_entries = None if entries is None else _widened(entries, extra)
        integers = [None if t is None else t.contiguous() for t in (seen, visible, picked)]
        given = wide_q, wide_window, wide_entries, sink.detach().contiguous(), *integers
        mass = None
        if with_mass and entries is not None:
            mass = q.new_zeros(b, n, entries.shape[1] if picked is None else picked.shape[2])
        o, levels = torch.empty_like(wide_q), q.new_empty(b, n, heads)
        module.attend_training(*given, c, o, levels, mass)
        ctx.save_for_backward(*given, levels)
        ctx.module, ctx.channels = module, c
        if mass is not None:
            ctx.mark_non_differentiable(mass)
        return o[..., :c], mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *given, levels = ctx.saved_tensors
        q, window, entries, sink = given[:4]
        c = ctx.channels
        slope = _widened(grads[0], q.shape[-1] - c)
        nothing = q.new_empty(q.shape[0], 0, q.shape[-1])
        to = [
            torch.empty_like(t) for t in (q, window, nothing if entries is None else entries, sink)
        ]
        ctx.module.attend_back(*given, c, levels, slope, *to)
        to_q, to_window, to_entries = (t[..., :c] for t in to[:3])
        return to_q, to_window, None if entries is None else to_entries, to[3], *[None] * 4


def _widened(x: Tensor, extra: int) -> Tensor:
    """x, contiguous, with `extra` channels of 0."""
    return F.pad(x.detach(), (0, extra)) if extra else x.detach().contiguous()


def _weighted(probs: Tensor, sources: list[Tensor]) -> Tensor:
    """Σ_s p_s · k_s: probs [b, n, H, keys …], sources [b, 1 or n, keys, c] → [b, n, H, c]."""
    b, n, heads, _ = probs.shape
    out, first = [], 0
    for keys in sources:
        part = probs[..., first : first + keys.shape[2]]
        first += keys.shape[2]
        product = part.reshape(b, keys.shape[1], -1, keys.shape[2]) @ keys
        out.append(product.view(b, n, heads, -1))
    return out[0] if len(out) == 1 else out[0] + out[1]


def _scores(q: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """q [b, n, H, c] · keys [b, 1 or n, E, c] → float32 [b, n, H, E], −∞ where masked."""
    b, n, heads, c = q.shape
    scores = q.reshape(b, keys.shape[1], -1, c) @ keys.transpose(-1, -2)
    scores = wide(scores).view(b, n, heads, -1)
    return scores if mask is None else scores.masked_fill(~mask.unsqueeze(2), -torch.inf)
