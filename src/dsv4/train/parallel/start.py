"""How a run finds out whether it is one process or one of several: torchrun tells it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from dsv4.train.checkpoints import Checkpoints
from dsv4.train.parallel.sizes import Sizes
from dsv4.train.whole import WHOLE, Whole

if TYPE_CHECKING:
    from dsv4.train.parallel.mesh import Mesh


def restarted() -> bool:
    """Whether torchrun started this process anew, after one of them was lost."""
    return _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def joined(mesh: str) -> Whole:
    """The processes of a mesh, joined: gloo on CPUs, NCCL on accelerators. Raises ValueError where
    they are more or fewer."""
    sizes, count = Sizes.parse(mesh), int(os.environ.get("WORLD_SIZE", "1"))
    if count != sizes.processes:
        raise ValueError(
            f"mesh {sizes} is of dp × cp = {sizes.processes} processes, {count} were started: "
            f"torchrun --nproc-per-node {sizes.processes} -m dsv4 train …, or another mesh"
        )
    return WHOLE if count == 1 else _join(sizes)


def _join(sizes: Sizes) -> Mesh:
    from dsv4.train.parallel.mesh import Mesh  # what is FSDP's takes a second to import

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        store, rank, count = next(dist.rendezvous("env://"))
        own = dist.PrefixStore(
            f"restart {_restarts()}", store
        )  # the addresses of the lost stay in it
        backend = "nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=own, rank=rank, world_size=count)
    return Mesh(sizes, "cuda" if cuda else "cpu")


def checkpoints_of(whole: Whole, folder: Path) -> Checkpoints:
    """The saved states of a run, as these processes write them."""
    if whole is WHOLE:
        return Checkpoints(folder)
    from dsv4.train.parallel.mesh import Mesh
    from dsv4.train.parallel.saved import SharedCheckpoints

    assert isinstance(whole, Mesh)
    return SharedCheckpoints(folder, whole)
