"""Who computes a batch. Here: one process, all of it; train/parallel/mesh.py: several, a part each.

A step is written for a part: its losses are shares that sum to the batch's, its rows and columns
are some of the batch's, its tensors may be shards. In one process all of that is the identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dsv4.config import Config
from dsv4.model.past import Past
from dsv4.model.precision import FLOAT32, Precision
from dsv4.model.transformer import Transformer
from dsv4.train.data import Batch
from dsv4.train.optim import optimizers


class Whole:
    """One process."""

    sharing = 1  # processes that share a row
    chief = True  # the one that speaks, and writes what all know

    # ---- sums ----------------------------------------------------------------------------------

    def over_all(self, part: Tensor) -> Tensor:
        """The sum over the processes that share the batch."""
        return part

    def over_row(self, part: Tensor) -> Tensor:
        """The sum over the processes that share a row."""
        return part

    def any(self, flag: bool) -> bool:
        """Whether it is so in one process at least."""
        return bool(self.over_all(torch.tensor(int(flag))))

    # ---- the batch -----------------------------------------------------------------------------

    def part(self, batch: Batch) -> Batch:
        """This process's part of a batch."""
        return batch

    def past(self, model: Transformer, first: int) -> Past | None:
        """What the layers read of the columns before `first`."""
        assert not first, "columns of a row are for processes that share it"
        return None

    def told(self, batch: Batch, experts: Tensor) -> Tensor:
        """Of the experts of every token, int64 [rows · columns, k], this process's."""
        return experts

    def chosen(self, batch: Batch, experts: Tensor) -> Tensor:
        """The reverse of `told`."""
        return experts

    def bound(self, loss: Tensor, all_else: Tensor) -> Tensor:
        """`loss`, whose backward comes by all that is behind `all_else`, as the others' does."""
        return loss

    # ---- the model -----------------------------------------------------------------------------

    def model(self, config: Config, precision: Precision = FLOAT32) -> Transformer:
        """A model, its weights not set."""
        return Transformer(config, precision=precision)

    def initialize(self, model: Transformer, seed: int) -> None:
        """Draw the initial weights."""
        model.initialize(seed)

    def optimizers(
        self, model: Transformer, *, lr: float, weight_decay: float, rule: str = "muon"
    ) -> list[torch.optim.Optimizer]:
        """Muon and AdamW, or by `rule` "adamw" AdamW alone."""
        return optimizers(model, model.config, lr=lr, weight_decay=weight_decay, rule=rule)

    def settle(self, model: Transformer) -> None:
        """Leave nothing of a forward that had no backward."""

    def norm(self, model: Transformer, gradients: Mapping[str, Tensor]) -> Tensor:
        """√Σ g² over all of the model's gradients, given by name."""
        return torch.nn.utils.get_total_norm(gradients.values())

    def broken(self, tensors: Mapping[str, Tensor]) -> str | None:
        """The first that is not finite."""
        names = (name for name, tensor in tensors.items() if not tensor.isfinite().all())
        return next(names, None)

    def weights(self, model: Transformer) -> Iterator[tuple[str, Tensor]]:
        """The model's state, tensor by tensor, each whole (on other processes than the chief
        anything)."""
        yield from model.state_dict().items()


WHOLE = Whole()
