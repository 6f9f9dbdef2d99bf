"""Operations of the model's mathematics, and how many the machine does: together the MFU.

forward of a document = cost.flops.prompt, with logits of every token, and the MTP block's
backward = 2 · forward. What is recomputed or padded is not counted.
"""

from __future__ import annotations

import math
import time
from functools import cache

import torch

from dsv4.checkpoint.layout import weights
from dsv4.config import Config
from dsv4.cost.flops import prompt

SIZE, SECONDS = 1536, 0.5  # of the products that are timed


def active_parameters(config: Config) -> int:
    """Weights of the layers' matrices that one token meets, of the routed experts those that it
    chooses: embedding, output head and draft apart, as scaling laws count."""
    total = 0.0
    share = config.num_experts_per_tok / config.n_routed_experts
    for name, weight in weights(config).items():
        if len(weight.shape) > 1 and name.startswith("layers.") and not name.endswith("tid2eid"):
            size = math.prod(weight.shape)
            total += size * share if ".ffn.experts." in name else size
    return round(total)


def flops_per_token(config: Config, seq_len: int, *, dense: bool = False) -> float:
    """Forward and backward of one token, the mean over a document of `seq_len`."""
    main = config.without_draft()
    if dense:  # every visible entry is one of the best
        main = main.replace(index_topk=max(seq_len, config.index_topk))
    forward = prompt(main, seq_len).total + _more_logits(config, seq_len)
    if config.num_nextn_predict_layers and not config.is_dspark:
        block = main.replace(num_hidden_layers=1, compress_ratios=(0,), num_hash_layers=0)
        joined = 2 * 2 * config.hidden_size**2 * seq_len  # e_proj and h_proj
        forward += prompt(block, seq_len).total + _more_logits(config, seq_len) + joined
    return 3 * forward / seq_len


def _more_logits(config: Config, seq_len: int) -> float:
    """Those of all tokens but the last."""
    return 2 * config.vocab_size * config.hidden_size * (seq_len - 1)


@cache
def peak_flops(dtype: torch.dtype = torch.float32) -> float:
    """Multiplications and additions a second of a large product here, the best of half a second."""
    a, b = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    each: list[float] = []
    out = torch.empty_like(a)
    end = time.perf_counter() + SECONDS
    while not each or time.perf_counter() < end:
        begun = time.perf_counter()
        torch.mm(a, b, out=out)
        each.append(time.perf_counter() - begun)
    return 2 * SIZE**3 / min(each)
