"""What a mesh costs, from config and mesh alone: bytes that each process holds, bytes that a step
moves. `dsv4 plan` prints it; tests/train/parallel/test_volume.py counts both in real processes.

held:  weights and gradients 4 bytes a number, Muon's moment 4, AdamW's two 8, of a process's shard
moved: an all-gather by what it makes, a reduce-scatter by what it takes, an all-to-all by what it
sends. A layer's weights are gathered twice a micro-batch, those used outside the layers once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dsv4.config import Config, LayerKind
from dsv4.model.transformer import Transformer
from dsv4.train.optim import takes_muon
from dsv4.train.parallel.owners import assign, cost, dense_matrices, expert_loads, shard
from dsv4.train.parallel.sizes import Sizes

F32, I64 = 4, 8


@dataclass(frozen=True)
class Stored:
    """One tensor of the model: float32 parameters of one process's model."""

    name: str
    shape: tuple[int, ...]

    @property
    def is_experts(self) -> bool:
        """Whether it is a stack of experts."""
        return ".ffn.experts." in self.name

    def gathered_with(self, sizes: Sizes) -> str:
        """Whose forward it is gathered for: a layer's, or "", the model's. The MTP block is
        gathered with the model, its spread experts by themselves."""
        parts = self.name.split(".")
        if parts[0] == "layers" or (self.is_experts and sizes.ep > 1):
            return f"{parts[0]}.{parts[1]}"
        return ""

    def own(self, sizes: Sizes, number: int) -> int:
        """How many of its numbers process `number` holds."""
        each = 1
        for size in self.shape[1:]:
            each *= size
        first, ways, part = self._division(sizes, number)
        return len(shard(first, ways, part)) * each

    def padded(self, sizes: Sizes) -> int:
        """Its numbers where it is gathered: every process sends as many as the first."""
        _, ways, _ = self._division(sizes, 0)
        return self.own(sizes, 0) * ways

    def _division(self, sizes: Sizes, number: int) -> tuple[int, int, int]:
        if self.is_experts and sizes.ep > 1:
            return self.shape[0] // sizes.ep, sizes.replicas, number // sizes.ep
        return self.shape[0], sizes.processes, number


@dataclass(frozen=True)
class Held:
    """Bytes that one process holds."""

    weights: int
    gradients: int
    muon: int
    adamw: int
    buffers: int  # hash tables, balance biases: whole in each
    gathered: int  # the most weights that are whole at once, with their gradients

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Moved:
    """Bytes that a step moves, the mean of the processes."""

    gather_weights: int
    scatter_gradients: int
    experts: int  # tokens to experts and back, forward and backward
    columns: int  # rows to neighbours, entries to all that share a row
    muon: int  # slices of updates to their owners and back


class Volume:
    """The account of a config on a mesh, with a recipe's optimizer."""

    def __init__(self, config: Config, sizes: Sizes, optimizer: str = "muon"):
        self.config, self.sizes, self.optimizer = config, sizes, optimizer
        with torch.device("meta"):
            model = Transformer(config)
        self.tensors = [Stored(name, tuple(p.shape)) for name, p in model.named_parameters()]
        self.buffers = {
            name: buffer.numel() * buffer.itemsize
            for name, buffer in model.named_buffers()
            if not name.endswith("freqs")
        }

    def _muon_has(self, tensor: Stored) -> bool:
        return self.optimizer == "muon" and takes_muon(tensor.name, len(tensor.shape))

    def held(self, number: int = 0) -> Held:
        """What process `number` holds; none holds more than the first."""
        muon = adamw = 0
        for tensor in self.tensors:
            own = tensor.own(self.sizes, number)
            if self._muon_has(tensor):
                muon += own
            else:
                adamw += own
        layers: dict[str, int] = {}
        for tensor in self.tensors:
            group = tensor.gathered_with(self.sizes)
            layers[group] = layers.get(group, 0) + tensor.padded(self.sizes)
        outside = layers.pop("", 0)
        both = (
            0 if self.sizes.processes == 1 else 2 * (outside + 2 * max(layers.values(), default=0))
        )
        return Held(
            weights=F32 * (muon + adamw),
            gradients=F32 * (muon + adamw),
            muon=F32 * muon,
            adamw=2 * F32 * adamw,
            buffers=sum(self.buffers.values()),
            gathered=F32 * both,
        )

    def moved(
        self,
        rows: int,
        seq_len: int,
        *,
        micros: int = 1,
        index: bool = False,
        recompute: bool = False,
    ) -> Moved:
        """What a step of `rows` rows moves, each one document; `index`: the indexer learns."""
        sizes, tokens = self.sizes, rows * seq_len // self.sizes.processes
        if sizes.processes == 1:
            return Moved(0, 0, 0, 0, 0)
        gathered = scattered = 0
        for tensor in self.tensors:
            alone = tensor.is_experts and sizes.ep > 1 and sizes.replicas == 1
            numbers = 0 if alone else tensor.padded(sizes)
            gathered += numbers * (2 if tensor.gathered_with(sizes) else 1)
            scattered += numbers if index or ".indexer." not in tensor.name else 0
        passes = 3 if recompute else 2  # forward and backward, and forward again
        rate = rows / sizes.dp if sizes.cp > 1 else 0
        return Moved(
            gather_weights=F32 * gathered * micros,
            scatter_gradients=F32 * scattered * micros,
            experts=self._experts(tokens, passes, micros),
            columns=round(
                rate * sum(self._columns(n, seq_len, passes, index) for n in self._layers)
            ),
            muon=self._muon(index),
        )

    @property
    def _layers(self) -> range:
        return range(self.config.num_hidden_layers + self.config.draft_stages)

    def _experts(self, tokens: int, passes: int, micros: int) -> int:
        """Rows and weights go, results come, and the gradients of all go back; counts once a pass
        forward."""
        c = self.config
        if self.sizes.ep == 1:
            return 0
        pairs = tokens * c.num_experts_per_tok
        counts = (passes - 1) * micros * c.n_routed_experts * I64
        return len(self._layers) * (passes * F32 * pairs * (2 * c.hidden_size + 1) + counts)

    def _columns(self, layer: int, seq_len: int, passes: int, index: bool) -> float:
        """Of one layer and one row: rows sent on, entries gathered; the mean of the processes."""
        c, ways = self.config, self.sizes.cp
        n, kind = seq_len // ways, c.kind(layer)
        total = passes * self._sent(n, c.sliding_window - 1) * c.head_dim
        if kind is LayerKind.SLIDING:
            return F32 * total
        ratio, halves = c.compress_ratios[layer], 2 if kind is LayerKind.CSA else 1
        ends = [(number + 1) * n // ratio - number * n // ratio for number in range(ways)]
        for channels, learns in ((c.head_dim, True), (c.index_head_dim, index)):
            if channels == c.index_head_dim and kind is not LayerKind.CSA:
                break
            times = passes if learns else passes - 1  # a choice has no backward
            total += times * self._sent(n, halves * ratio - 1) * 2 * halves * channels
            total += times * ways * max(ends) * channels
        return F32 * total

    def _sent(self, n: int, reach: int) -> float:
        """Rows that a process sends on, of `reach` that each asks for: the mean."""
        ways = self.sizes.cp
        return sum(min(number * n, reach) for number in range(ways)) / ways

    def _muon(self, index: bool) -> int:
        """Slices of dense matrices, there and back."""
        numbers = sum(
            tensor.own(self.sizes, number)
            for tensor in self.tensors
            for number in range(self.sizes.processes)
            if len(tensor.shape) == 2
            and self._muon_has(tensor)
            and (index or ".indexer." not in tensor.name)
        )
        return 2 * F32 * numbers // self.sizes.processes

    def balance(self) -> float:
        """The most that an owner orthogonalises over the mean."""
        named = [t for t in self.tensors if self._muon_has(t)]
        dense = {n: (t.name, torch.Size(t.shape)) for n, t in enumerate(named) if len(t.shape) == 2}
        stacks = [(t.shape[0] // self.sizes.ep, *t.shape[1:]) for t in named if len(t.shape) == 3]
        loads = expert_loads(stacks, self.sizes)
        assign([cost(len(m.rows), m.columns) for m in dense_matrices(dense, self.config)], loads)
        return max(loads) / (sum(loads) / len(loads))
