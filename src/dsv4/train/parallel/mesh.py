"""The processes of a run: who shares rows, columns and experts with whom.

process = dp index · cp + cp index, so neighbours share rows. Neighbours hold the experts between
them too: those from E/ep · i on lie with the processes whose number is i mod ep.
"""

from __future__ import annotations

import dataclasses
import os

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from dsv4.model.past import Past
from dsv4.model.transformer import Transformer
from dsv4.train.data import Batch
from dsv4.train.loss import Losses, Whole
from dsv4.train.parallel.columns import past_of
from dsv4.train.parallel.sizes import Sizes


class Mesh(Whole):
    """The groups that this process is in, and its part of every batch.

    Needs a process group (torchrun's): see `joined`. Raises ValueError where it is of another size.
    """

    def __init__(self, sizes: Sizes, device: torch.device | str = "cpu"):
        self.sizes, self.device, self.rows = sizes, torch.device(device), sizes.dp
        count = dist.get_world_size()
        if count != sizes.processes:
            raise ValueError(
                f"mesh {sizes} is of dp × cp = {sizes.processes} processes, {count} were started: "
                f"torchrun --nproc-per-node {sizes.processes}, or another mesh"
            )
        kind, numbers = self.device.type, torch.arange(count)
        self.all = init_device_mesh(kind, (count,), mesh_dim_names=("all",))
        self.columns = init_device_mesh(kind, (sizes.dp, sizes.cp), mesh_dim_names=("dp", "cp"))
        by_part = numbers.view(sizes.replicas, sizes.ep).T.contiguous()
        self.experts = DeviceMesh(kind, by_part, mesh_dim_names=("ep", "replica"))
        self.number = dist.get_rank()
        self.row_group, self.column = divmod(self.number, sizes.cp)

    # ---- its part of a batch -----------------------------------------------------------------

    def part(self, batch: Batch) -> Batch:
        """This process's rows and columns of a whole batch."""
        rows, columns = batch.ids.shape
        each, n = rows // self.sizes.dp, columns // self.sizes.cp
        assert each * self.sizes.dp == rows and n * self.sizes.cp == columns
        row = slice(self.row_group * each, (self.row_group + 1) * each)
        column = slice(self.column * n, (self.column + 1) * n)
        documents = batch.documents
        if documents is None and self.sizes.cp > 1:
            documents = [[columns]] * rows
        ids, next_ids, targets, mtp_targets = (
            tensor[row, column].contiguous()
            for tensor in (batch.ids, batch.next_ids, batch.targets, batch.mtp_targets)
        )
        held = None if documents is None else documents[row]
        return Batch(ids, next_ids, targets, mtp_targets, held, column.start)

    def over_all(self, part: Tensor) -> Tensor:
        """The sum over all processes, the same in each."""
        return _summed(part, self.all.get_group())

    def over_row(self, part: Tensor) -> Tensor:
        """The sum over the processes that share a row."""
        return _summed(part, self.columns["cp"].get_group()) if self.sizes.cp > 1 else part

    def past(self, model: Transformer, first: int) -> Past | None:
        """The columns before `first`, which lie with the neighbours."""
        return past_of(model, self.columns["cp"].get_group(), first) if self.sizes.cp > 1 else None

    def summed(self, found: Losses) -> Losses:
        """The terms of the whole batch, as constants: for logs and for `update_bias`."""
        terms = {name: term for name, term in vars(found).items() if term is not None}
        flat = torch.cat([term.detach().flatten() for term in terms.values()])
        pieces = self.over_all(flat).split([term.numel() for term in terms.values()])
        whole = zip(terms.items(), pieces, strict=True)
        return dataclasses.replace(found, **{n: p.view_as(term) for (n, term), p in whole})


def _summed(part: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = part.detach().clone()
    dist.all_reduce(total, group=group)
    return total


def started() -> bool:
    """Whether torchrun started this process as one of several, or as one that it restarts."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def joined(sizes: Sizes) -> Mesh:
    """Join the processes that torchrun started: gloo on CPUs, NCCL on accelerators."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return Mesh(sizes, "cuda" if cuda else "cpu")
