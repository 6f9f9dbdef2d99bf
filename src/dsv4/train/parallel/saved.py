"""A state that several processes write, and any number reads: a folder by torch's DCP.

Each process writes its own shards; `run.pt` holds what all know, and `files.json` the length and
the checksum of every file. A folder gets its name when it is whole. Tensors are stored by what
they are of one process's model ("model/NAME", "moments/NAME/momentum"), whatever the mesh.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from dsv4.atomic import discard, replacing
from dsv4.train.checkpoints import Checkpoints
from dsv4.train.parallel.mesh import Mesh
from dsv4.train.parallel.shard import as_global, keep_own, whole_shape
from dsv4.train.state import RemovedError, TrainingError
from dsv4.train.step import Trainer
from dsv4.train.whole import Whole

PLAIN_FILE, SUMS_FILE = "run.pt", "files.json"
PIECE = 1 << 24  # bytes summed at a time


class Shards:
    """The tensors of a saved state, in its folder, whose files have these sums (`check`)."""

    def __init__(self, folder: Path, sums: bytes):
        self.folder, self.sums = folder, sums
        metadata = FileSystemReader(folder).read_metadata().state_dict_metadata
        self.kinds = {
            name: kind for name, kind in metadata.items() if isinstance(kind, TensorStorageMetadata)
        }

    def moments(self, name: str) -> dict[str, torch.Size]:
        """The shapes of an optimizer's tensors of a parameter."""
        head = f"moments/{name}/"
        return {k.removeprefix(head): v.size for k, v in self.kinds.items() if k.startswith(head)}

    def model(self) -> dict[str, Tensor]:
        """The model's tensors, whole, read by this process alone. Raises: TrainingError if they
        cannot be read, RemovedError if another has removed or replaced the state meanwhile."""
        found: dict[str, Any] = {
            name: torch.empty(kind.size, dtype=kind.properties.dtype)
            for name, kind in self.kinds.items()
            if name.startswith("model/")
        }
        wrong: BaseException | None = None
        try:
            _read(found, self.folder, None)
        except (Exception, CheckpointException) as error:  # whatever a missing file makes of it
            wrong = error
        if _sums(self.folder) != self.sums:  # some of it may be of another state
            raise RemovedError(self.folder) from wrong
        if wrong is not None:
            raise TrainingError(f"{self.folder} cannot be read ({_reason(wrong)})") from wrong
        return {name.removeprefix("model/"): tensor for name, tensor in found.items()}


# ---- writing ---------------------------------------------------------------------------------


def save(
    folder: Path,
    plain: dict[str, Any],
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    mesh: Mesh,
) -> None:
    """Write a state, every process its part; `folder` appears when all of it is there. Raises
    OSError in every process; then what is there stays."""
    half = folder.with_name(f".{folder.name}.saving")
    own: dict[str, list[int]] = {}
    every = [own] * mesh.sizes.processes  # the sums of each process

    def prepare() -> None:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        with replacing(half / PLAIN_FILE) as stream:
            torch.save(plain, stream)

    def shards() -> None:
        tensors = dict(_tensors(model, optimizers, mesh))
        dcp.save(tensors, storage_writer=FileSystemWriter(half), process_group=mesh.group)

    def sums() -> None:
        own.update({path.name: _sum(path) for path in _shared_out(half, mesh)})

    def name() -> None:
        with replacing(half / SUMS_FILE) as stream:
            stream.write(
                json.dumps({n: sum_ for part in every for n, sum_ in part.items()}).encode()
            )
        discard(folder)
        half.rename(folder)

    try:
        _together(folder, prepare if mesh.chief else _nothing, mesh)
        _together(folder, shards, mesh)
        _together(folder, sums, mesh)
        dist.all_gather_object(every, own, group=mesh.group)
        _together(folder, name if mesh.chief else _nothing, mesh)
    except OSError:
        if mesh.chief:
            shutil.rmtree(half, ignore_errors=True)
        raise


def _nothing() -> None:
    """What the others do while the chief works."""


def _together(folder: Path, phase: Callable[[], None], mesh: Mesh) -> None:
    """Do a part of the writing; where it fails in one process it fails in all."""
    own: str | None = None
    try:
        phase()
    except Exception as error:  # whatever a writer makes of a full disk
        own = _reason(error)
    told: list[str | None] = [None] * mesh.sizes.processes
    dist.all_gather_object(told, own, group=mesh.group)
    wrong = next((each for each in told if each is not None), None)
    if wrong is not None:
        raise OSError(f"{folder} was not written ({wrong}): free some disk, or name another folder")


def _reason(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _tensors(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], whole: Whole
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a state, by its name there; those of a mesh as shards of whole ones."""

    def seen(name: str, tensor: Tensor) -> Tensor:
        return as_global(name, tensor, whole) if isinstance(whole, Mesh) else tensor

    for name, tensor in model.state_dict().items():
        yield f"model/{name}", seen(name, tensor)
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, moments in optimizer.state.items():
            for key, moment in moments.items():
                yield f"moments/{names[parameter]}/{key}", seen(names[parameter], moment)


def _shared_out(folder: Path, mesh: Mesh) -> list[Path]:
    """The files that this process sums."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS_FILE)
    return files[mesh.number :: mesh.sizes.processes]


def _sum(path: Path) -> list[int]:
    """Length and CRC-32 of a file."""
    total = length = 0
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            total, length = zlib.crc32(piece, total), length + len(piece)
    return [length, total]


# ---- reading ---------------------------------------------------------------------------------


def read_plain(folder: Path) -> dict[str, Any]:
    """What all processes know of a state. Raises an error of any kind where it is damaged."""
    state = torch.load(folder / PLAIN_FILE, map_location="cpu", weights_only=True)
    assert isinstance(state, dict)
    return state


def check(folder: Path) -> bytes:
    """What SUMS_FILE holds. Raises ValueError unless every byte is as it was written. Under
    torchrun the processes share the files out among them, and all get the same answer."""
    mesh_size = dist.get_world_size() if dist.is_initialized() else 1
    number = dist.get_rank() if mesh_size > 1 else 0
    held = b""
    try:
        held = (folder / SUMS_FILE).read_bytes()
        sums = json.loads(held)
        wrong = [
            name
            for name in sorted(sums)[number::mesh_size]
            if not (folder / name).is_file() or _sum(folder / name) != sums[name]
        ]
        own = f"{wrong[0]} fails its checksum" if wrong else None
    except (OSError, ValueError) as error:
        own = f"{SUMS_FILE}: {error}"
    told: list[str | None] = [own]
    if mesh_size > 1:
        told = [None] * mesh_size
        dist.all_gather_object(told, own)
    first = next((each for each in told if each is not None), None)
    if first is not None:
        raise ValueError(first)
    return held


def _sums(folder: Path) -> bytes | None:
    """What SUMS_FILE holds, if it is there."""
    try:
        return (folder / SUMS_FILE).read_bytes()
    except OSError:
        return None


@torch.no_grad()
def load(
    state: dict[str, Any],
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    whole: Whole,
) -> None:
    """Give a state's tensors to a model and its optimizers: one that any mesh wrote, or, in several
    processes, a file of one process.

    Raises: ValueError, before anything is changed, if they are not of this model.
    """
    if isinstance(whole, Mesh) and not isinstance(state["model"], Shards):
        _adopt(state, model, optimizers, whole)
        return
    shards: Shards = state["model"]
    fits(dict(_tensors(model, [], whole)), shards)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        optimizer.state.clear()
        for parameter in _parameters(optimizer):
            for key, shape in shards.moments(names[parameter]).items():
                moment = torch.zeros_like(parameter) if shape else torch.zeros(())
                optimizer.state[parameter][key] = moment
    wanted: dict[str, Any] = dict(_tensors(model, optimizers, whole))
    _read(wanted, shards.folder, whole if isinstance(whole, Mesh) else None)


def _read(wanted: dict[str, Any], folder: Path, mesh: Mesh | None) -> None:
    """Fill tensors from a folder: this process's shards of them, or, without a mesh, whole ones."""
    heard = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of tracebacks: what is missing is said by who asks
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as meant
            dcp.load(wanted, checkpoint_id=folder, no_dist=mesh is None)
    finally:
        logging.disable(heard)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _adopt(
    state: dict[str, Any],
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    mesh: Mesh,
) -> None:
    """Keep of a whole state what is this process's."""
    held = model.state_dict()
    for name in (*held, *state["model"]):
        there = state["model"].get(name)
        if name not in held or there is None:
            raise ValueError(f"{name} is {'missing' if name in held else 'unknown'}")
        if there.shape != whole_shape(name, held[name], mesh):
            raise ValueError(f"{name} is {list(there.shape)}")
    for name, tensor in held.items():
        keep_own(name, tensor, state["model"][name], mesh)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.state.clear()
        parameters = _parameters(optimizer)
        for number, moments in kept["state"].items():
            parameter = parameters[number]
            for key, moment in moments.items():
                own = torch.zeros_like(parameter) if moment.dim() else torch.zeros(())
                keep_own(names[parameter], own, moment, mesh)
                optimizer.state[parameter][key] = own


def fits(wanted: dict[str, Tensor], shards: Shards) -> None:
    """Raises ValueError naming the first tensor that is missing, unknown, or of another kind."""
    saved = {name: kind for name, kind in shards.kinds.items() if name.startswith("model/")}
    for name in (*wanted, *saved):
        if name not in wanted or name not in saved:
            raise ValueError(f"{name} is {'missing' if name in wanted else 'unknown'}")
        here, there = wanted[name], saved[name]
        if (here.shape, here.dtype) != (there.size, there.properties.dtype):
            raise ValueError(f"{name} is {list(there.size)} of {there.properties.dtype}")


class SharedCheckpoints(Checkpoints):
    """The saved states of a run of several processes. All of them call its methods together."""

    suffix = ""

    def __init__(self, folder: Path, mesh: Mesh, *, keep: int = 1, every: int = 1):
        super().__init__(folder, keep=keep, every=every)
        self.mesh = mesh

    def _write(self, step: int, state: dict[str, Any], of: Trainer) -> None:
        self.mesh.settle(of.model)
        save(self._own(step), state, of.model, of.optimizers, self.mesh)

    def _discard(self, paths: Sequence[Path]) -> None:
        dist.barrier(group=self.mesh.group)  # all have seen the same
        if self.mesh.chief:
            super()._discard(paths)
        dist.barrier(group=self.mesh.group)
