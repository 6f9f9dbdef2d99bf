"""The released files ↔ a model: same names, except that a layer's routed experts are stacked.

    layers.L.ffn.experts.w1 [E, i, d]  ↔  layers.L.ffn.experts.N.w1.weight [i, d], N = 0 … E−1

Reading copies tensor by tensor into a model that exists. Writing fills a folder beside the target,
shard by shard, and moves it there when it is whole.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dsv4.checkpoint.errors import Differences, MismatchError
from dsv4.checkpoint.folder import (
    Advance,
    check_room,
    check_target,
    claimed,
    disk_errors,
    progress,
    publish,
    recover,
    write_config,
    write_generation_config,
    write_index,
)
from dsv4.checkpoint.layout import WeightSpec, layout, shard_file, weights
from dsv4.checkpoint.reader import Checkpoint
from dsv4.checkpoint.recode import encode
from dsv4.checkpoint.writer import ShardLayout, ShardWriter, by_file
from dsv4.config import Config
from dsv4.files import check_regular

STACKED = re.compile(r"(?P<experts>.*\.ffn\.experts)\.(?P<matrix>w[123])")


def released(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A model's state, tensor by tensor under the released names; experts are views of a stack."""
    for name, tensor in state.items():
        stacked = STACKED.fullmatch(name)
        if stacked is None:
            yield name, tensor
            continue
        for expert, part in enumerate(tensor):
            yield f"{stacked['experts']}.{expert}.{stacked['matrix']}.weight", part


@torch.no_grad()
def load_into(
    model: nn.Module, path: str | os.PathLike[str] | Checkpoint, *, strict: bool = True
) -> Differences:
    """Copy a checkpoint into the parameters and buffers of `model`, each cast to its dtype.

    Beyond the model, one stored tensor (of the experts, one expert) is in memory at a time.
    Not strict: what is missing or unexpected is left alone and returned.
    Raises: MismatchError listing every missing, unexpected or mis-shaped tensor, before anything
    is copied; CheckpointError for unreadable files, NaN or infinity.
    """
    checkpoint = path if isinstance(path, Checkpoint) else Checkpoint(path)
    targets = dict(released(model.state_dict()))
    if any(target.is_meta for target in targets.values()):
        raise ValueError("the model is on the meta device: model.to_empty(device=...) first")
    expected = {name: tuple(target.shape) for name, target in targets.items()}
    found = checkpoint.check(expected, strict=strict)
    names = checkpoint.in_shard_order(name for name in targets if name in checkpoint.tensors)
    nbytes = sum(target.nbytes for target in targets.values())
    with progress("reading", nbytes) as advance:
        for name in names:
            target = targets[name]
            target.copy_(checkpoint.read_tensor(name, target.dtype))
            advance(target.nbytes)
    return found


@torch.no_grad()
def save(
    state: Mapping[str, Tensor],
    config: Config,
    out_dir: str | os.PathLike[str],
    *,
    tokenizer_files: Sequence[str | os.PathLike[str]] = (),
    overwrite: bool = False,
) -> Path:
    """Write `state` (a model's state_dict) as a checkpoint of `config`; returns the folder.

    The config decides the dtypes (see layout.py): with its `quantization_config` weights are
    rounded to FP8 and FP4 blocks, without it they are stored as `torch_dtype`.
    A checkpoint that is already there is replaced, when `overwrite` allows it, only once the new
    one is complete; a folder that holds anything else is never touched. What a killed process left
    beside the target is cleared by the next `save` to it.
    Raises: CheckpointError, MismatchError (state against config), ConfigError, FileNotFoundError
    for a tokenizer file; then nothing has changed.
    """
    out = Path(out_dir).resolve()
    check_target(out, overwrite)
    copied = [Path(file) for file in tokenizer_files]
    for file in copied:
        if not file.exists():
            raise FileNotFoundError(f"there is no tokenizer file {file}")
        check_regular(file)
    specs, values = weights(config), dict(released(state))
    total = sum(tensor.nbytes for tensor in layout(config).values())
    _check_state(specs, values)
    workspace = out.with_name(f".{out.name}.saving")
    with disk_errors(out), claimed(workspace, "save"):
        recover(workspace, out)
        try:
            check_target(out, overwrite)
            check_room(workspace, total)
            new = workspace / "new"
            new.mkdir()
            with progress("writing", total) as advance:
                _write_shards(new, config, values, advance)
            write_config(new, config, layout(config))
            write_generation_config(new, config)
            for file in copied:
                shutil.copyfile(file, new / file.name)
            publish(new, out, aside=workspace / "old")
        finally:
            shutil.rmtree(workspace)
    return out


def _write_shards(
    folder: Path, config: Config, values: Mapping[str, Tensor], advance: Advance
) -> None:
    """All shards, one weight in memory at a time, and the index over them."""
    specs, tensors = weights(config), layout(config)
    shards = by_file(tensors)
    for number, held in enumerate(shards):
        with ShardWriter(folder / shard_file(number, len(shards)), ShardLayout(held)) as writer:
            for name in (name for name in held if name in specs):
                for stored, tensor in encode(name, values[name], specs[name], config).items():
                    writer.write(stored, tensor)
                    advance(tensor.nbytes)
    write_index(folder, tensors)


def _check_state(specs: Mapping[str, WeightSpec], values: Mapping[str, Tensor]) -> None:
    found = Differences(
        missing=[name for name in specs if name not in values],
        unexpected=[name for name in values if name not in specs],
    )
    for name in specs.keys() & values.keys():
        shape, want = list(values[name].shape), list(specs[name].shape)
        if shape != want:
            found.unfit.append(f"{name} is {shape}, must be {want}")
    if found.missing or found.unexpected or found.unfit:
        raise MismatchError("the state to be saved does not fit the config", found)
