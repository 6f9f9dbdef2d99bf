"""`dsv4 cost`: what a model costs at some contexts, as lines, as JSON, as a plot."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.checkpoint import PRESET_NAMES, counted
from dsv4.cli.sizes import parse_contexts, parse_size
from dsv4.cli.streams import note, say

if TYPE_CHECKING:
    from dsv4.config import Config
    from dsv4.cost import Cost
    from dsv4.cost.price import Prices

GIB = 1 << 30
MOST = 1_000_000  # turns
NAMES = {"v3.2": True, "deepseek-v3.2": True, "none": False}


def cost(
    models: Annotated[
        list[str], typer.Argument(help=f"Checkpoint folders, or {PRESET_NAMES}.", metavar="MODEL…")
    ],
    context: Annotated[
        str, typer.Option(help="Tokens: 4096, 64K, 4K,1M or 4K..1M (doubling); K is 1,000.")
    ] = "1M",
    against: Annotated[str | None, typer.Option(help="v3.2: give ratios to DeepSeek-V3.2.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this PNG file.")] = None,
    bandwidth: Annotated[
        str | None, typer.Option(help="Bytes a second that memory reads, such as 32GB.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="FP8-equivalent FLOPs a second, such as 2e15.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="A cap on memory, such as 64GB.")] = None,
    turns: Annotated[
        int | None, typer.Option(help="Price a conversation of so many turns.", min=1, max=MOST)
    ] = None,
    new: Annotated[int, typer.Option(help="Tokens of each message.", min=0)] = 200,
    reply: Annotated[int, typer.Option(help="Tokens of each reply.", min=0)] = 500,
    system: Annotated[int, typer.Option(help="Tokens before the first message.", min=0)] = 1000,
    price_hit: Annotated[
        float, typer.Option(help="Of a million known prompt tokens.", min=0.0)
    ] = 0.0,
    price_miss: Annotated[
        float, typer.Option(help="Of a million new prompt tokens.", min=0.0)
    ] = 0.0,
    price_out: Annotated[
        float, typer.Option(help="Of a million tokens of replies.", min=0.0)
    ] = 0.0,
) -> None:
    """Count FLOPs, bytes of weights and cache, bounds on time, what fits where, and prices.

    With one model and one context --json prints one object, otherwise a list of them.
    """
    from dsv4.cost import costs as count
    from dsv4.cost.memory import fits, seconds
    from dsv4.cost.price import Prices, conversation

    ratios, prices = _against(against), Prices(price_hit, price_miss, price_out)
    contexts = parse_contexts(context)
    configs = {name: counted(name)[0] for name in models}
    found = {name: count(config, contexts, against_v32=ratios) for name, config in configs.items()}
    speed = parse_size(bandwidth, "--bandwidth") if bandwidth is not None else None
    if rate is not None and not 0 < rate < float("inf"):
        raise ValueError(f"--rate {rate}: must be above 0, and a number")
    cap = parse_size(memory, "--memory") if memory is not None else None
    rows = []
    for name, costs in found.items():
        for one in costs:
            row = {"model": name} | one.dict()
            if speed is not None or rate is not None:
                nbytes = row["activated_bytes_per_token"]
                row["seconds_per_token"] = seconds(
                    nbytes, one.token.fp8, speed or float("inf"), rate or float("inf")
                )
            row["fits"] = [
                asdict(fit) for fit in fits(configs[name], one.weights, one.kv_cache, cap)
            ]
            if turns is not None:
                bill = conversation(turns, system, new, reply, prices)
                row["conversation"] = {"turns": turns} | asdict(bill)
            rows.append(row)
    if plot is not None:
        _plot(plot, configs, ratios)
    if as_json:
        say(json.dumps(rows[0] if len(rows) == 1 else rows, indent=2))
        return
    for name, costs in found.items():
        _print(name, costs)
        _print_fits(configs[name], costs[-1], cap)
    for row in rows:
        if "seconds_per_token" in row:
            least = row["seconds_per_token"]
            say(f"{row['model']} at {row['context']:,}: at most {1 / least:,.1f} tokens a second")
    if turns is not None:
        _print_bill(turns, system, new, reply, prices)


def _against(name: str | None) -> bool:
    if name is not None and name.lower() not in NAMES:
        raise ValueError(f"--against {name}: must be v3.2")
    return name is not None and NAMES[name.lower()]


def _print(name: str, costs: list[Cost]) -> None:
    one = costs[0]
    say(f"{name}: {one.total_parameters:,} parameters, {one.activated_parameters:,} activated")
    say(f"  {one.multiplied_parameters:,} of them multiplied: of the embedding one row is read")
    weights = one.weights
    each = ", ".join(f"{dtype} {nbytes / GIB:,.1f}" for dtype, nbytes in weights.by_dtype.items())
    say(
        f"  weights {weights.total / GIB:,.1f} GiB ({each}), of them the draft's "
        f"{weights.draft / GIB:,.1f}; a token reads {weights.activated / GIB:,.1f}"
    )
    for cost in costs:
        ratio = ""
        if cost.flops_ratio is not None:
            ratio = f"   of V3.2: {cost.flops_ratio:.1%} FLOPs, {cost.cache_ratio:.1%} cache"
        say(
            f"  {cost.context:>9,} tokens: {cost.token.fp8 / 1e9:9,.2f} GFLOP a token   "
            f"cache {cost.kv_cache / GIB:7,.3f} GiB ({cost.gqa_ratio:.1%} of GQA-8)   "
            f"prefill {cost.prompt.fp8 / 1e15:,.3f} PFLOP{ratio}"
        )
    last = costs[-1]
    parts = sorted(last.token.parts.items(), key=lambda item: -item[1])
    say(
        f"  a token at {last.context:,}, GFLOP unweighted: "
        + ", ".join(f"{part} {count / 1e9:,.2f}" for part, count in parts)
    )


def _print_fits(config: Config, cost: Cost, cap: int | None) -> None:
    from dsv4.cost.memory import fits

    say(f"  sequences of {cost.context:,} tokens beside the weights (with the draft's):")
    for row in fits(config, cost.weights, cost.kv_cache, cap):
        held = f"{row.sequences:,} ({row.with_draft:,})"
        if not row.sequences:
            held = "one, experts read from disk (--max-resident)" if row.capped else "none"
        say(f"    {row.machine:24} {row.memory / GIB:7,.0f} GiB   {held}")


def _print_bill(turns: int, system: int, new: int, reply: int, prices: Prices) -> None:
    from dsv4.cost.price import conversation

    bill = conversation(turns, system, new, reply, prices)
    say(
        f"{turns} turns: {bill.hits:,} prompt tokens known, {bill.misses:,} new, {bill.out:,} "
        f"replied: {bill.price:,.4f}, without a prefix cache {bill.without_cache:,.4f}"
    )


def _plot(file: Path, configs: dict[str, Config], ratios: bool) -> None:
    try:
        from dsv4.cost.plot import draw
    except ImportError as error:
        raise ValueError(f"--plot needs matplotlib ({error}): pip install 'dsv4[plot]'") from error
    draw(file, configs, v32=ratios)
    note(f"wrote {file}")
