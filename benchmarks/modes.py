"""What fast and exact lose against the dequantised model: all three read the same files.

    python benchmarks/modes.py [--checkpoint FOLDER] [--text FILE] [--rows 8] [--out FILE]

The text is drawn from the dequantised model, or read from a file. Reported: relative error of the
logits (‖a − b‖ / ‖b‖, median and largest over positions), how often the likeliest next token is
the same, KL divergence, the text's cross-entropy, and the bytes of cache a token.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import dsv4
from dsv4.checkpoint.load import packaged

ROWS = 512  # tokens of one sequence


def sampled(model: dsv4.Transformer, rows: int) -> Tensor:
    """Text of the model's own, ids [rows, ROWS]: documents follow each other as in training."""
    generator = torch.Generator().manual_seed(0)
    column = torch.full((rows, 1), model.config.bos_token_id)
    columns, cache = [column], model.new_cache(rows)
    with torch.inference_mode():
        for _ in range(ROWS - 1):
            probs = model(column, cache)[:, -1].softmax(-1)
            column = torch.multinomial(probs, 1, generator=generator)
            columns.append(column)
    return torch.cat(columns, 1)


def read(file: Path, tokenizer: dsv4.Tokenizer, rows: int) -> Tensor:
    """The beginning of a text file: ids [rows, ROWS]."""
    encoded = tokenizer.encode(file.read_text(encoding="utf-8"))
    rows = min(rows, len(encoded) // ROWS)
    if rows == 0:
        raise SystemExit(f"{file} has {len(encoded)} tokens: {ROWS} are needed")
    return torch.tensor(encoded[: rows * ROWS]).view(rows, ROWS)


def logits(model: dsv4.Transformer, ids: Tensor) -> tuple[Tensor, float]:
    """Logits [rows, n, vocab], and bytes of cache a token once a row is in it."""
    with torch.inference_mode():
        cache = model.new_cache(ids.shape[0])
        out = model(ids, cache)
    return out, cache.nbytes() / ids.numel()


def compare(found: Tensor, expected: Tensor, ids: Tensor) -> dict[str, float]:
    """The figures of one mode."""
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)  # [rows, n]
    log_p, log_q = expected.log_softmax(-1), found.log_softmax(-1)
    loss = F.cross_entropy(found[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return {
        "median_error": error.median().item(),
        "largest_error": error.max().item(),
        "same_token": (found.argmax(-1) == expected.argmax(-1)).float().mean().item(),
        "kl": (log_p.exp() * (log_p - log_q)).sum(-1).mean().item(),
        "cross_entropy": loss.item(),
    }


def main() -> None:
    """Measure, print, and write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=packaged())
    parser.add_argument("--text", type=Path, help="text to score; default: drawn from the model")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    whole = dsv4.load(args.checkpoint, torch.float32)
    if args.text:
        ids = read(args.text, dsv4.Tokenizer.load(args.checkpoint), args.rows)
    else:
        ids = sampled(whole, args.rows)
    expected, cached = logits(whole, ids)
    report = {"dequantised": compare(expected, expected, ids) | {"cache_bytes_a_token": cached}}
    for mode in ("fast", "exact"):
        found, cached = logits(dsv4.load(args.checkpoint, mode=mode), ids)
        report[mode] = compare(found, expected, ids) | {"cache_bytes_a_token": cached}
    for mode, figures in report.items():
        print(mode.ljust(12), "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    if args.out:
        args.out.write_text(json.dumps({"tokens": ids.numel(), "modes": report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
