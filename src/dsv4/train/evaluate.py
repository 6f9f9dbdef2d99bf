"""Bits a byte on held-out text: loss / ln 2 · tokens / bytes, of each text and of all."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from dsv4.model.transformer import Transformer
from dsv4.train.data import IGNORE, Batch, DataError, Feed
from dsv4.train.loss import linear_cross_entropy
from dsv4.train.whole import WHOLE, Whole


@torch.no_grad()
def evaluate(
    model: Transformer,
    feed: Feed,
    *,
    rows: int,
    seq_len: int,
    tokens: int,
    dense: bool,
    whole: Whole = WHOLE,
) -> dict[str, float]:
    """The loss in nats a token and in bits a byte on the first `tokens` places held out of each
    text; with several texts also `bits_per_byte/NAME` of each. Raises DataError where nothing is
    held out.
    """
    model.eval()
    nats = count = nbytes = 0.0
    found: dict[str, float] = {}
    for name, file in feed.held_out.items():
        own_nats = own_count = 0.0
        for batch in _first(feed.in_order(name, rows, seq_len), tokens):
            targets = int((batch.targets != IGNORE).sum())
            own_nats += _loss(model, whole.part(batch), dense, whole) * targets
            own_count += targets
        if not own_count:
            continue
        # of the text's own tokens a byte: what is evaluated may be a part of it
        own_bytes = own_count * file.header.nbytes / file.header.tokens
        found[f"bits_per_byte/{name}"] = own_nats / math.log(2) / own_bytes
        nats, count, nbytes = nats + own_nats, count + own_count, nbytes + own_bytes
    if not count:
        paths = ", ".join(str(file.path) for file in feed.held_out.values())
        raise DataError(f"{paths} holds no token after another: give more text")
    every = {"validation_loss": nats / count, "bits_per_byte": nats / math.log(2) / nbytes}
    return every | (found if len(feed.held_out) > 1 else {})


def _first(batches: Iterator[Batch], tokens: int) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        tokens -= batch.ids.numel()
        if tokens <= 0:
            return


def _loss(model: Transformer, batch: Batch, dense: bool, whole: Whole) -> float:
    studies, past = model.new_studies(dense=dense), whole.past(model, batch.first)
    streams = model.streams(batch.ids, documents=batch.documents, studies=studies, past=past)
    hidden = model.collapse(streams).flatten(0, 1)
    weight, low = model.head.weight, model.precision.low
    part = linear_cross_entropy(hidden, weight, batch.targets.flatten(), whole, low=low)
    return whole.over_all(part).item()
