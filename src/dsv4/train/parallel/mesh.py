"""The processes of a run: who shares rows, columns and experts with whom.

process = dp index · cp + cp index, so neighbours share rows. Neighbours hold the experts between
them too: those from E/ep · i on lie with the processes whose number is i mod ep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule

from dsv4.config import Config
from dsv4.model.past import Past
from dsv4.model.precision import FLOAT32, Precision
from dsv4.model.transformer import Transformer
from dsv4.train.data import IGNORE, Batch
from dsv4.train.optim import optimizers
from dsv4.train.parallel import shard
from dsv4.train.parallel.collectives import all_gather, tie
from dsv4.train.parallel.columns import past_of
from dsv4.train.parallel.owners import Owners
from dsv4.train.parallel.sizes import Sizes
from dsv4.train.whole import Whole


class Mesh(Whole):
    """The groups that this process is in, and its part of a run.

    Needs a process group (torchrun's): see `joined`. Raises ValueError where it is of another size.
    """

    def __init__(self, sizes: Sizes, device: torch.device | str = "cpu"):
        self.sizes, self.device, self.sharing = sizes, torch.device(device), sizes.cp
        count = dist.get_world_size()
        if count != sizes.processes:
            raise ValueError(
                f"mesh {sizes} is of dp × cp = {sizes.processes} processes, {count} were started: "
                f"torchrun --nproc-per-node {sizes.processes}, or another mesh"
            )
        kind, numbers = self.device.type, torch.arange(count)
        self.all = init_device_mesh(kind, (count,), mesh_dim_names=("all",))
        rows = init_device_mesh(kind, (sizes.dp, sizes.cp), mesh_dim_names=("dp", "cp"))
        by_part = numbers.view(sizes.replicas, sizes.ep).T.contiguous()
        self.experts = DeviceMesh(kind, by_part, mesh_dim_names=("ep", "replica"))
        self.group, self.row = self.all.get_group(), rows["cp"].get_group()
        self.expert_group = self.experts["ep"].get_group()
        self.number = dist.get_rank()
        self.row_number, self.column = divmod(self.number, sizes.cp)
        self.chief = self.number == 0

    # ---- sums ----------------------------------------------------------------------------------

    def over_all(self, part: Tensor) -> Tensor:
        """The sum over all processes, the same in each."""
        return _summed(part, self.group)

    def over_row(self, part: Tensor) -> Tensor:
        """The sum over the processes that share a row."""
        return _summed(part, self.row) if self.sizes.cp > 1 else part

    # ---- its part of a batch -------------------------------------------------------------------

    def part(self, batch: Batch) -> Batch:
        """This process's rows and columns; where dp does not divide the rows, empty ones follow."""
        rows, columns = batch.ids.shape
        documents = batch.documents
        if documents is None and (self.sizes.cp > 1 or rows % self.sizes.dp):
            documents = [[columns]] * rows
        row, column = self._slices(rows, columns)
        if documents is not None:
            documents = [*documents, *[[]] * (row.stop * self.sizes.dp)][row]
        return Batch(
            self._cut(batch.ids),
            self._cut(batch.next_ids),
            self._cut(batch.targets, IGNORE),
            self._cut(batch.mtp_targets, IGNORE),
            documents,
            column.start,
        )

    def past(self, model: Transformer, first: int) -> Past | None:
        """The columns before `first`, which lie with the neighbours."""
        return past_of(model, self.row, first) if self.sizes.cp > 1 else None

    def told(self, batch: Batch, experts: Tensor) -> Tensor:
        """Of the experts of every token, int64 [rows · columns, k], this process's."""
        return self._cut(experts.view(*batch.ids.shape, -1)).flatten(0, 1)

    def chosen(self, batch: Batch, experts: Tensor) -> Tensor:
        """The reverse of `told`."""
        rows, columns = batch.ids.shape
        parts = experts.new_empty(self.sizes.processes * len(experts), experts.shape[1])
        all_gather(parts, experts, self.group)
        laid = parts.view(
            self.sizes.dp, self.sizes.cp, -1, columns // self.sizes.cp, parts.shape[1]
        )
        return laid.transpose(1, 2).reshape(-1, columns, parts.shape[1])[:rows].flatten(0, 1)

    def _cut(self, whole: Tensor, fill: int = 0) -> Tensor:
        """This process's part of [rows, columns, ..]."""
        row, column = self._slices(*whole.shape[:2])
        found = whole[row, column]
        missing = (row.stop - row.start) - len(found)
        return F.pad(found, [0, 0] * (whole.dim() - 1) + [0, missing], value=fill).contiguous()

    def _slices(self, rows: int, columns: int) -> tuple[slice, slice]:
        each, n = -(-rows // self.sizes.dp), columns // self.sizes.cp
        row, column = self.row_number * each, self.column * n
        return slice(row, row + each), slice(column, column + n)

    def bound(self, loss: Tensor, all_else: Tensor) -> Tensor:
        """`loss`, whose backward comes by all that is behind `all_else`, as the others' does."""
        return tie(loss, [all_else])

    # ---- its part of the model -----------------------------------------------------------------

    def model(self, config: Config, precision: Precision = FLOAT32) -> Transformer:
        """A model in shards; no process ever has it whole."""
        with torch.device("meta"):
            model = Transformer(config, precision=precision)
        shard.parallelise(model, self)
        model.to_empty(device=self.device)
        shard.set_frequencies(model)
        return model

    def initialize(self, model: Transformer, seed: int) -> None:
        """The weights that one process would draw, of which each keeps its own."""
        shard.initialize(model, self, seed)

    def optimizers(
        self, model: Transformer, *, lr: float, weight_decay: float, rule: str = "muon"
    ) -> list[torch.optim.Optimizer]:
        """Muon and AdamW over the shards, or by `rule` "adamw" AdamW alone."""
        return optimizers(
            model,
            model.config,
            lr=lr,
            weight_decay=weight_decay,
            rule=rule,
            spread=lambda named: Owners(named, model.config, self.sizes, self.number, self.group),
        )

    def settle(self, model: Transformer) -> None:
        """Forget weights that were gathered."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def norm(self, model: Transformer, gradients: Mapping[str, Tensor]) -> Tensor:
        """√Σ g² over all processes, of gradients that one process would have too."""
        return shard.gradient_norm(model, self)

    def broken(self, tensors: Mapping[str, Tensor]) -> str | None:
        """The first that is not finite."""
        own = [bool(shard.local(t.detach()).isfinite().all()) for t in tensors.values()]
        counts = self.over_all(torch.tensor(own, dtype=torch.int64, device=self.device)).tolist()
        names = (
            n for n, sound in zip(tensors, counts, strict=True) if sound < self.sizes.processes
        )
        return next(names, None)

    def weights(self, model: Transformer) -> Iterator[tuple[str, Tensor]]:
        """The model's state, tensor by tensor, each whole."""
        self.settle(model)
        for name, tensor in model.state_dict().items():
            yield name, shard.whole_tensor(name, tensor, self)


def _summed(part: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = part.detach().clone()
    dist.all_reduce(total, group=group)
    return total
