"""How much of dense attention the indexer finds: python benchmarks/recall.py TEXT STATE [STATE …]

The held-out documents of TEXT (a folder of `dsv4 data build`) of at least `--length` tokens are
each read densely up to there. A query's recall is the share of its attention to compressed entries
that lies on the `index_topk` which the indexer scores highest; "best" is the share on those that
have the most, which no indexer can exceed. Queries that see no more entries than that are left out.
The first line has new indexers in the first state's model. Beside it: bits a byte of the same text
where attention is dense and where the indexer chooses.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from dsv4.config import Config
from dsv4.data.prepared import open_sources
from dsv4.model.initial import initialize
from dsv4.model.study import Found
from dsv4.model.transformer import Transformer
from dsv4.train.state import load_state

OF = Found.of
RESULT = Path(__file__).parent / "results/recall.json"


def documents(text: Path, length: int) -> list[tuple[list[int], float]]:
    """The beginnings, of `length` tokens, of held-out documents that are as long, and the bytes of
    a token of their source."""
    found = []
    for source in open_sources(text, "validation"):
        header = source.file.header
        for first, last in itertools.pairwise(source.file.offsets.tolist()):
            if last - first >= length:
                ids = source.file.read(first, first + length).tolist()
                found.append((ids, header.nbytes / header.tokens))
    return found


def best(mass: Tensor, scores: Tensor, mask: Tensor | None, topk: int) -> Found:
    """`Found.of` of an indexer whose scores are the attention itself."""
    del scores
    return OF(mass, mass, mask, topk)


@torch.inference_mode()
def bits(model: Transformer, rows: list[tuple[list[int], float]], *, dense: bool) -> float:
    """Bits a byte of the rows, after their first token."""
    nats = nbytes = 0.0
    for row, each in rows:
        ids = torch.tensor([row])
        streams = model.streams(ids, studies=model.new_studies(dense=dense))
        logits = model.head(model.collapse(streams))[0, :-1]
        nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        nbytes += each * (len(row) - 1)
    return nats / math.log(2) / nbytes


@torch.inference_mode()
def recall(model: Transformer, rows: list[tuple[list[int], float]]) -> dict[str, Any]:
    """Mean over queries of each CSA layer and of all, and by how many entries a query sees."""
    config = model.config
    ratio = min(ratio for ratio in config.compress_ratios if ratio)
    sees = (torch.arange(len(rows[0][0])) + 1) // ratio  # entries of each query
    by_layer: dict[int, list[torch.Tensor]] = {}
    for row, _ in rows:
        studies = model.new_studies(dense=True, index=True)
        model.streams(torch.tensor([row]), studies=studies)
        for number, study in enumerate(studies):
            if study.recall is not None:
                by_layer.setdefault(number, []).append(study.recall[0])
    means = {number: torch.stack(found).mean(0) for number, found in by_layer.items()}
    every = torch.stack(list(means.values())).mean(0)
    out: dict[str, Any] = {"all": every[sees > config.index_topk].mean().item()}
    out |= {f"layer {n}": one[sees > config.index_topk].mean().item() for n, one in means.items()}
    top = config.index_topk
    while top < int(sees[-1]):
        part = (sees > top) & (sees <= 2 * top)
        out[f"{top + 1} to {2 * top} entries"] = every[part].mean().item()
        top *= 2
    return out


def main() -> None:
    """Measure and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("states", type=Path, nargs="+")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--most", type=int, default=24, help="documents")
    args = parser.parse_args()
    held_out = documents(args.text, args.length)
    every = max(1, len(held_out) // args.most)
    rows = held_out[::every][: args.most]
    print(f"{len(rows)} of {len(held_out)} documents of {args.length:,} tokens", flush=True)
    found: dict[str, Any] = {"documents": len(rows), "length": args.length}
    found |= {"recall": {}, "bits_per_byte": {}}
    for number, path in enumerate(args.states):
        state = load_state(path)
        config = Config.from_dict(state["config"])
        model = Transformer(config).eval()
        if not number:
            initialize(model, config, seed=0)
            fresh = {k: v for k, v in model.state_dict().items() if ".indexer." in k}
            model.load_state_dict(state["model"] | fresh)
            found["recall"]["new"] = recall(model, rows)
            print("new", found["recall"]["new"], flush=True)
        model.load_state_dict(state["model"])
        step = f"step {state['position']['step']}"
        found["recall"][step] = recall(model, rows)
        with mock.patch.object(Found, "of", best):
            found["recall"][f"best at {step}"] = recall(model, rows)
        both = {kind: bits(model, rows, dense=kind == "dense") for kind in ("dense", "sparse")}
        found["bits_per_byte"][step] = both
        for name in (step, f"best at {step}"):
            print(name, found["recall"][name], flush=True)
        print(both, flush=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
