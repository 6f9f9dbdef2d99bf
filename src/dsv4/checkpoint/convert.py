"""A checkpoint in another form: FP4, FP8 or BF16 experts, FP8 or BF16 dense linears, other shards.

    every weight: read → recode → write at its place → read the shard back → next shard

Exact, or refused: a weight that its new form cannot hold raises RoundingError, unless rounding is
allowed. In memory is one weight and what its conversion needs. The workspace beside the target
keeps finished shards with their digests, so that the same command goes on after an interruption;
the folder appears under its name when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dsv4.checkpoint.errors import CheckpointError
from dsv4.checkpoint.folder import (
    GENERATION_FILE,
    OWN_FILES,
    TOKENIZER_FILES,
    Advance,
    check_room,
    check_target,
    claimed,
    disk_errors,
    progress,
    publish,
    write_config,
    write_generation_config,
    write_index,
    write_json,
)
from dsv4.checkpoint.forms import target_config
from dsv4.checkpoint.layout import TensorSpec, WeightSpec, layout, shard_file, weights
from dsv4.checkpoint.reader import Checkpoint
from dsv4.checkpoint.recode import RoundingError, recode
from dsv4.checkpoint.writer import ShardLayout, ShardWriter, by_file, cut
from dsv4.config import Config
from dsv4.files import check_regular, read_json

PLAN_FILE, DONE_FILE = "plan.json", "done.json"
JOURNAL = 1 << 28  # bytes, at the most


@dataclass
class Conversion:
    """What a conversion did. `rounded` counts blocks by kind; empty if every value was kept."""

    folder: Path
    config: Config
    shards: int
    nbytes: int
    resumed: int = 0  # shards that were finished before
    damaged: list[str] = field(default_factory=list)  # finished before, but broken: written again
    rounded: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)  # files of the source that are not copied


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of the result."""

    source: Checkpoint
    config: Config
    tensors: dict[str, TensorSpec]
    options: dict[str, Any]

    @cached_property
    def weights(self) -> dict[str, WeightSpec]:
        """The weights of the model, whatever their form."""
        return weights(self.config)

    @cached_property
    def shards(self) -> dict[str, ShardLayout]:
        """File name → its layout."""
        files = by_file(self.tensors)
        return {shard_file(n, len(files)): ShardLayout(held) for n, held in enumerate(files)}

    def identity(self) -> dict[str, Any]:
        """What must be equal for an unfinished conversion to go on, as JSON gives it back."""
        files = {name: (self.source.path / name).stat() for name in self.source.shards}
        stated = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in files.items()}
        config = self.config.to_dict()
        return json.loads(json.dumps({"options": self.options, "config": config, "source": stated}))


@torch.no_grad()
def convert(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    experts: str | None = None,
    dense: str | None = None,
    shard_size: int | None = None,
    allow_rounding: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Write the checkpoint `source` in another form to `out_dir`.

    `experts` is fp4, fp8 or bf16, `dense` fp8 or bf16; None keeps the stored form, byte for byte.
    `shard_size` cuts shards by bytes of data, None as the release: one for each layer.
    Raises: RoundingError naming a weight and its blocks; CheckpointError or MismatchError for a
    source that is broken or incomplete, a target that holds something, a disk too small, a
    workspace of other options; ConfigError for a form that the shapes do not allow.
    """
    out = Path(out_dir).resolve()
    if shard_size is not None and shard_size < 1:
        raise CheckpointError(f"the shard size is {shard_size}: must be at least one byte")
    plan = _plan(Checkpoint(source), experts, dense, shard_size)
    workspace = workspace_of(out)
    if out == plan.source.path.resolve():
        raise CheckpointError(f"{out} is the source itself: choose another folder")
    check_target(out, overwrite)
    with disk_errors(out), claimed(workspace, "conversion"), _kept_or_cleared(workspace):
        _go_on(workspace, plan)
        new = workspace / "new"
        new.mkdir(exist_ok=True)
        done = Conversion(out, plan.config, len(plan.shards), 0)
        done.nbytes = sum(spec.nbytes for spec in plan.tensors.values())
        _write_shards(plan, workspace, done, allow_rounding)
        write_index(new, plan.tensors)
        write_config(new, plan.config, plan.tensors)
        _copy_small_files(plan, new, done)
        Checkpoint(new).check({name: spec.shape for name, spec in plan.weights.items()})
        publish(new, out, aside=workspace / "old")
        shutil.rmtree(workspace)
    return done


def workspace_of(out: Path) -> Path:
    """The folder beside `out` that holds an unfinished conversion to it."""
    return out.resolve().with_name(f".{out.resolve().name}.converting")


def _plan(
    source: Checkpoint, experts: str | None, dense: str | None, shard_size: int | None
) -> Plan:
    source.check({name: spec.shape for name, spec in weights(source.config).items()})
    for name in (*TOKENIZER_FILES, GENERATION_FILE):
        if (source.path / name).exists():
            check_regular(source.path / name)
    config = target_config(source, experts, dense)
    tensors = layout(config)
    if shard_size is not None:
        tensors = cut(tensors, shard_size)
    options = {"--experts": experts, "--dense": dense, "--shard-size": shard_size}
    return Plan(source, config, tensors, options)


# ---- the workspace ---------------------------------------------------------------------------


@contextmanager
def _kept_or_cleared(workspace: Path) -> Iterator[None]:
    """After an error the workspace stays only if it holds finished shards, and the error says so.

    An unfinished conversion with other options is left as it is.
    """
    try:
        yield
    except (CheckpointError, OSError, KeyboardInterrupt) as error:
        if not (workspace / DONE_FILE).exists():
            shutil.rmtree(workspace, ignore_errors=True)
        elif isinstance(error, CheckpointError) and str(workspace) not in str(error):
            kept = f"finished shards are kept in {workspace}: the same command goes on from there"
            error.args = (f"{error}; {kept}, or delete it",)
        elif isinstance(error, OSError) and error.errno is not None:
            raise CheckpointError(
                f"the conversion stopped: {os.strerror(error.errno)}; finished shards are kept in "
                f"{workspace}: the same command goes on from there"
            ) from error
        raise


def _go_on(workspace: Path, plan: Plan) -> None:
    """Enter the plan, or compare it with that of the conversion that was interrupted here."""
    identity, file = plan.identity(), workspace / PLAN_FILE
    if not (workspace / DONE_FILE).exists():  # nothing is finished that could be lost or mixed
        write_json(file, identity)
    before = read_json(file, JOURNAL)
    if before != identity:
        given = [f"{k} {v}" for k, v in before["options"].items() if v is not None]
        same = before["options"] == identity["options"]
        why = "of a source that has changed since" if same else "with other options"
        raise CheckpointError(
            f"{workspace} holds an unfinished conversion {why} "
            f"({' '.join(given) or 'no options'}): finish that one, or delete this folder"
        )


def _finished(
    plan: Plan, workspace: Path, done: Conversion, allow_rounding: bool
) -> dict[str, dict[str, Any]]:
    """The shards that an earlier run finished and that still are what it wrote."""
    file = workspace / DONE_FILE
    if not file.exists():
        return {}
    found = {}
    for name, entry in read_json(file, JOURNAL).items():
        path = workspace / "new" / name
        if not path.is_file() or plan.shards[name].read_digest(path) != entry["digest"]:
            done.damaged.append(name)
        elif allow_rounding or not entry["rounded"]:  # else it is written again, to say what rounds
            found[name] = entry
            done.rounded.update(entry["rounded"])
    done.resumed = len(found)
    return found


# ---- the bytes -------------------------------------------------------------------------------


def _write_shards(plan: Plan, workspace: Path, done: Conversion, allow_rounding: bool) -> None:
    """Every shard that is not finished, in order, each entered in the journal when it is."""
    new = workspace / "new"
    for part in new.glob("*.part"):
        part.unlink()
    journal = _finished(plan, workspace, done, allow_rounding)
    missing = {name: shard for name, shard in plan.shards.items() if name not in journal}
    for name in missing:
        (new / name).unlink(missing_ok=True)
    needed = sum(shard.nbytes for shard in missing.values())
    check_room(new.parent, needed)
    with progress("converting", needed) as advance:
        for name, shard in missing.items():
            digest, rounded = _write_shard(plan, new / name, shard, allow_rounding, advance)
            journal[name] = {"digest": digest, "rounded": rounded}
            done.rounded.update(rounded)
            write_json(workspace / DONE_FILE, journal)


def _write_shard(
    plan: Plan, file: Path, shard: ShardLayout, allow_rounding: bool, advance: Advance
) -> tuple[str, Counter[str]]:
    """Recode the weights of one shard; its digest and the blocks that were rounded, by kind."""
    rounded: Counter[str] = Counter()
    with ShardWriter(file, shard) as writer:
        for name in (name for name in shard.tensors if name in plan.weights):
            result = recode(plan.source, name, plan.weights[name], plan.config)
            if result.rounded and not allow_rounding:
                raise RoundingError(name, result.changed, result.unit)
            if result.rounded:
                rounded[result.unit] += result.rounded
            for stored, tensor in result.tensors.items():
                writer.write(stored, tensor)
                advance(tensor.nbytes)
    return writer.digest, rounded


def _copy_small_files(plan: Plan, new: Path, done: Conversion) -> None:
    """The tokenizer's files and the advice on sampling; other files are only named."""
    source = plan.source.path
    for name in (*TOKENIZER_FILES, GENERATION_FILE):
        if (source / name).exists():
            shutil.copyfile(source / name, new / name)
    if not (new / GENERATION_FILE).exists():
        write_generation_config(new, plan.config)
    known = {*OWN_FILES, *TOKENIZER_FILES, *plan.source.shards}
    done.left_out = sorted(file.name for file in source.iterdir() if file.name not in known)
