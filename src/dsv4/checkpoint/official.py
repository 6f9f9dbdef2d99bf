"""The released files ↔ a model: same names, except that a layer's routed experts are stacked.

    layers.L.ffn.experts.w1 [E, i, d]  ↔  layers.L.ffn.experts.N.w1.weight [i, d], N = 0 … E−1

Reading copies tensor by tensor into a model that exists. Writing fills a folder beside the target,
shard by shard, and moves it there when it is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn

from dsv4.checkpoint.layout import (
    WeightSpec,
    layout,
    scale_dtype,
    scale_name,
    shard_count,
    shard_file,
    stored_dtype,
    weights,
)
from dsv4.checkpoint.reader import (
    INDEX_FILE,
    Checkpoint,
    CheckpointError,
    Differences,
    MismatchError,
)
from dsv4.config import Config
from dsv4.quant import fp4, fp8
from dsv4.quant.scales import check_finite

STACKED = re.compile(r"(?P<experts>.*\.ffn\.experts)\.(?P<matrix>w[123])")
OWN_FILES = ("config.json", "generation_config.json", INDEX_FILE)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
LARGE = 1 << 30  # bytes from which reading and writing show their progress

T = TypeVar("T")


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
    for name in _shown(names, "reading", nbytes):
        target = targets[name]
        target.copy_(checkpoint.read_tensor(name, target.dtype))
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
    one is complete; a folder that holds anything else is never touched.
    Raises: CheckpointError, MismatchError (state against config), ConfigError, FileNotFoundError
    for a tokenizer file; then nothing has changed.
    """
    out = Path(out_dir).resolve()
    _check_target(out, overwrite)
    copied = [Path(file) for file in tokenizer_files]
    for file in copied:
        if not file.is_file():
            raise FileNotFoundError(f"there is no tokenizer file {file}")
    specs, values = weights(config), dict(released(state))
    total = sum(tensor.nbytes for tensor in layout(config).values())
    _check_state(specs, values)
    out.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        new = workspace / "new"
        new.mkdir()
        _write_shards(new, specs, values, config, total)
        (new / "config.json").write_text(config.to_json(), encoding="utf-8")
        _write_json(new / "generation_config.json", _generation_config(config))
        for file in copied:
            shutil.copyfile(file, new / file.name)
        _publish(new, out, aside=workspace / "old")
    finally:
        shutil.rmtree(workspace)
    return out


def _write_shards(
    folder: Path,
    specs: Mapping[str, WeightSpec],
    values: Mapping[str, Tensor],
    config: Config,
    total: int,
) -> None:
    """All shards, one in memory at a time, and the index over them."""
    count = shard_count(config)
    names: list[list[str]] = [[] for _ in range(count)]
    for name, spec in specs.items():
        names[spec.shard].append(name)
    places: dict[str, str] = {}
    for shard in _shown(range(count), "writing", total):
        tensors: dict[str, Tensor] = {}
        for name in names[shard]:
            tensors |= encode(name, values[name], specs[name], config)
        file = shard_file(shard, count)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        # safetensors makes its files private: give them what any other file here would have
        (folder / file).chmod(folder.stat().st_mode & 0o666)
        places |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    _write_json(folder / INDEX_FILE, index)


def encode(name: str, value: Tensor, spec: WeightSpec, config: Config) -> dict[str, Tensor]:
    """One weight as the tensors that a file stores: itself, or its packed form and its scale.

    Raises: CheckpointError, naming the tensor, for NaN, infinity, or ids that are no integers.
    """
    dtype = stored_dtype(config, spec.role)
    try:
        if dtype in (torch.int8, torch.float8_e4m3fn):
            packed, scale = (fp4 if dtype is torch.int8 else fp8).quantize(value, name)
            scale = scale.to(scale_dtype(config, spec.role))
            return {name: packed.cpu(), scale_name(name): scale.cpu()}
        if (dtype is torch.int64) == value.is_floating_point():
            raise ValueError(f"{name} is {value.dtype}, which cannot be stored as {dtype}")
        stored = value.to("cpu", dtype).contiguous()
        if dtype is not torch.int64:
            check_finite(stored, name)
        return {name: stored}
    except ValueError as error:
        raise CheckpointError(str(error)) from error


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


def _check_target(out: Path, overwrite: bool) -> None:
    """Only nothing, an empty folder or, with `overwrite`, a checkpoint may be replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise CheckpointError(f"{out} is a file: choose a folder for the checkpoint")
    held = sorted(file.name for file in out.iterdir())
    foreign = [name for name in held if not _is_own(name)]
    if foreign:
        raise CheckpointError(
            f"{out} holds {', '.join(foreign[:3])}, no part of a checkpoint: choose another folder"
        )
    if held and not overwrite:
        raise CheckpointError(f"{out} already holds a checkpoint: choose another or overwrite it")


def _is_own(name: str) -> bool:
    """Whether a checkpoint folder holds files of this name."""
    return name in (*OWN_FILES, *TOKENIZER_FILES) or name.endswith(".safetensors")


def _publish(new: Path, out: Path, *, aside: Path) -> None:
    """Move the finished folder to its place; what was there steps aside, and back on failure."""
    try:
        if out.exists():
            out.rename(aside)
        new.rename(out)
    except BaseException:  # Ctrl-C between the two moves must not lose the old checkpoint
        if aside.exists():
            aside.rename(out)
        raise


def _generation_config(config: Config) -> dict[str, Any]:
    """The release's advice: sample at temperature 1.0 and top_p 1.0."""
    return {
        "_from_model_config": True,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "transformers_version": config.transformers_version,
    }


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _shown(items: Sequence[T], text: str, nbytes: int) -> Iterable[T]:
    """`items`, with a progress bar on stderr where there is much to move."""
    console = Console(stderr=True)
    return track(items, text, console=console, disable=nbytes < LARGE, transient=True)
