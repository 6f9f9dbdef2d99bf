"""`dsv4 cost`: what a model costs at some contexts, as lines, as JSON, as a plot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.checkpoint import PRESET_NAMES, counted
from dsv4.cli.options import told_by
from dsv4.cli.sizes import parse_contexts, parse_size
from dsv4.cli.streams import note, say

if TYPE_CHECKING:
    from dsv4.config import Config
    from dsv4.cost import Cost
    from dsv4.cost.price import Bill

GIB = 1 << 30
MOST = 1_000_000  # turns
NAMES = {"v3.2": True, "deepseek-v3.2": True, "none": False}


@dataclass(kw_only=True)
class Options:
    """What is counted of which models, and how it is told."""

    models: Annotated[
        list[str], typer.Argument(help=f"Checkpoint folders, or {PRESET_NAMES}.", metavar="MODEL…")
    ]
    context: Annotated[
        str, typer.Option(help="Tokens: 4096, 64K, 4K,1M or 4K..1M (doubling); K is 1,000.")
    ] = "1M"
    against: Annotated[str | None, typer.Option(help="v3.2: give ratios to DeepSeek-V3.2.")] = None
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this PNG file.")] = None
    bandwidth: Annotated[
        str | None, typer.Option(help="Bytes a second that memory reads, such as 32GB.")
    ] = None
    rate: Annotated[
        float | None, typer.Option(help="FP8-equivalent FLOPs a second, such as 2e15.")
    ] = None
    memory: Annotated[str | None, typer.Option(help="A cap on memory, such as 64GB.")] = None
    turns: Annotated[
        int | None, typer.Option(help="Price a conversation of so many turns.", min=1, max=MOST)
    ] = None
    new: Annotated[int, typer.Option(help="Tokens of each message.", min=0)] = 200
    reply: Annotated[int, typer.Option(help="Tokens of each reply.", min=0)] = 500
    system: Annotated[int, typer.Option(help="Tokens before the first message.", min=0)] = 1000
    price_hit: Annotated[float, typer.Option(help="Of a million known prompt tokens.", min=0.0)] = (
        0.0
    )
    price_miss: Annotated[float, typer.Option(help="Of a million new prompt tokens.", min=0.0)] = (
        0.0
    )
    price_out: Annotated[float, typer.Option(help="Of a million tokens of replies.", min=0.0)] = 0.0

    @property
    def ratios(self) -> bool:
        """Whether to compare with V3.2. Raises ValueError."""
        name = "none" if self.against is None else self.against.lower()
        if name not in NAMES:
            raise ValueError(f"--against {self.against}: must be v3.2")
        return NAMES[name]

    @property
    def cap(self) -> int | None:
        """On memory, in bytes. Raises ValueError."""
        return None if self.memory is None else parse_size(self.memory, "--memory")

    def speeds(self) -> tuple[float, float] | None:
        """Bytes and FLOPs a second, the one that is not given without a bound; None without both.

        Raises ValueError."""
        given = self.bandwidth
        speed = float("inf") if given is None else parse_size(given, "--bandwidth")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"--rate {self.rate}: must be above 0, and a number")
        if given is None and self.rate is None:
            return None
        return speed, float("inf") if self.rate is None else self.rate

    def bill(self) -> Bill | None:
        """Of the conversation, if there is one."""
        from dsv4.cost.price import Prices, conversation

        if self.turns is None:
            return None
        prices = Prices(self.price_hit, self.price_miss, self.price_out)
        return conversation(self.turns, self.system, self.new, self.reply, prices)


@told_by(Options)
def cost(asked: Options) -> None:
    """Count FLOPs, bytes of weights and cache, bounds on time, what fits where, and prices.

    With one model and one context --json prints one object, otherwise a list of them.
    """
    from dsv4.cost import costs

    contexts, ratios = parse_contexts(asked.context), asked.ratios
    configs = {name: counted(name)[0] for name in asked.models}
    found = {name: costs(config, contexts, against_v32=ratios) for name, config in configs.items()}
    rows = [_row(name, configs[name], one, asked) for name, each in found.items() for one in each]
    if asked.plot is not None:
        _plot(asked.plot, configs, ratios)
    if asked.json:
        say(json.dumps(rows[0] if len(rows) == 1 else rows, indent=2))
        return
    for name, each in found.items():
        _print(name, each)
        _print_fits(configs[name], each[-1], asked.cap)
    for row in rows:
        if "seconds_per_token" in row:
            least = row["seconds_per_token"]
            say(f"{row['model']} at {row['context']:,}: at most {1 / least:,.1f} tokens a second")
    if (bill := asked.bill()) is not None:
        say(
            f"{asked.turns} turns: {bill.hits:,} prompt tokens known, {bill.misses:,} new, "
            f"{bill.out:,} replied: {bill.price:,.4f}, without a prefix cache "
            f"{bill.without_cache:,.4f}"
        )


def _row(name: str, config: Config, one: Cost, asked: Options) -> dict[str, Any]:
    """What is told as JSON of a model at a context."""
    from dsv4.cost.memory import fits, seconds

    row = {"model": name} | one.dict()
    if (speeds := asked.speeds()) is not None:
        nbytes = row["activated_bytes_per_token"]
        row["seconds_per_token"] = seconds(nbytes, one.token.fp8, *speeds)
    row["fits"] = [asdict(fit) for fit in fits(config, one.weights, one.kv_cache, asked.cap)]
    if (bill := asked.bill()) is not None:
        row["conversation"] = {"turns": asked.turns} | asdict(bill)
    return row


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


def _plot(file: Path, configs: dict[str, Config], ratios: bool) -> None:
    try:
        from dsv4.cost.plot import draw
    except ImportError as error:
        raise ValueError(f"--plot needs matplotlib ({error}): pip install 'dsv4[plot]'") from error
    draw(file, configs, v32=ratios)
    note(f"wrote {file}")
