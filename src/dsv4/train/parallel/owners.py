"""Muon under sharding: every matrix is whole in one process, its owner, while it is orthogonalised.

Moments and weights stay sharded, and what is done to them number by number is done there. A matrix
of a dense tensor goes to its owner slice by slice, in one all-to-all, and comes back in another.
Experts are sharded by whole matrices: they stay where they are. Owners are chosen by a knapsack:
the costliest matrix first, each to the process that has least to do, its experts counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dsv4.config import Config
from dsv4.train.optim import Matrices, row_parts
from dsv4.train.parallel.sizes import Sizes


def shard(rows: int, ways: int, number: int) -> range:
    """The rows that shard `number` of `ways` has: equal parts but for the last ones, which may be
    smaller or empty."""
    each = -(-rows // ways)
    return range(min(number * each, rows), min((number + 1) * each, rows))


def cost(rows: int, columns: int) -> int:
    """Of one matrix's orthogonalisation, in multiplications a step of Newton–Schulz."""
    short, long = sorted((rows, columns))
    return 2 * short * short * long + short**3


class Matrix(NamedTuple):
    """One matrix of a dense stored tensor."""

    place: int  # of its parameter in the optimizer
    rows: range  # of the stored tensor
    columns: int


def expert_loads(shapes: Iterable[Sequence[int]], sizes: Sizes) -> list[int]:
    """What the experts of each process cost: shapes [E / ep, rows, columns] of stacks."""
    loads = [0] * sizes.processes
    for held, rows, columns in shapes:
        for number in range(sizes.processes):
            mine = shard(held, sizes.replicas, number // sizes.ep)
            loads[number] += len(mine) * cost(rows, columns)
    return loads


def assign(costs: Sequence[int], loads: list[int]) -> list[int]:
    """The owner of each matrix; `loads`, what each process has to do already, grow with it."""
    owners = [0] * len(costs)
    for number in sorted(range(len(costs)), key=lambda n: (-costs[n], n)):
        owner = min(range(len(loads)), key=lambda process: (loads[process], process))
        owners[number] = owner
        loads[owner] += costs[number]
    return owners


def dense_matrices(shapes: Mapping[int, tuple[str, torch.Size]], config: Config) -> list[Matrix]:
    """The matrices of stored two-dimensional tensors, in order."""
    found = []
    for place, (name, shape) in shapes.items():
        first = 0
        for rows in row_parts(name, shape, config):
            found.append(Matrix(place, range(first, first + rows), shape[1]))
            first += rows
    return found


class Owners(Matrices):
    """Where the matrices of the named parameters are whole, seen from process `number`."""

    def __init__(
        self,
        named: list[tuple[str, nn.Parameter]],
        config: Config,
        sizes: Sizes,
        number: int,
        group: dist.ProcessGroup,
    ):
        self.ways, self.number, self.group = sizes.processes, number, group
        shapes = {place: (name, p.shape) for place, (name, p) in enumerate(named)}
        dense = {place: each for place, each in shapes.items() if len(each[1]) == 2}
        self.matrices = dense_matrices(dense, config)
        stacks = (shape for _, shape in shapes.values() if len(shape) == 3)
        self.loads = expert_loads(stacks, sizes)
        costs = [cost(len(matrix.rows), matrix.columns) for matrix in self.matrices]
        self.owners = assign(costs, self.loads)
        self.rows = {place: shape[0] for place, (_, shape) in dense.items()}

    def _slice(self, matrix: Matrix, number: int) -> range:
        """The rows of a matrix that lie in shard `number`."""
        held = shard(self.rows[matrix.place], self.ways, number)
        first, last = max(matrix.rows.start, held.start), min(matrix.rows.stop, held.stop)
        return range(first, max(first, last))

    def _of(self, owner: int, updates: Mapping[int, Tensor]) -> list[Matrix]:
        pairs = zip(self.matrices, self.owners, strict=True)
        return [matrix for matrix, who in pairs if who == owner and matrix.place in updates]

    def _sizes(self, matrices: Iterable[Matrix], number: int) -> list[int]:
        """How many numbers of each matrix lie in shard `number`."""
        return [len(self._slice(matrix, number)) * matrix.columns for matrix in matrices]

    def _own(self, updates: Mapping[int, Tensor]) -> list[Tensor]:
        """This process's slices of all matrices, the first owner's first: views of the updates."""
        found = []
        for owner in range(self.ways):
            for matrix in self._of(owner, updates):
                rows = self._slice(matrix, self.number)
                first = shard(self.rows[matrix.place], self.ways, self.number).start
                if rows:
                    found.append(updates[matrix.place][rows.start - first : rows.stop - first])
        return found

    def _traffic(self, updates: Mapping[int, Tensor]) -> tuple[list[int], list[int]]:
        """How many numbers this process sends to each owner, and gets from each as an owner."""
        everyone, mine = range(self.ways), self._of(self.number, updates)
        to = [sum(self._sizes(self._of(owner, updates), self.number)) for owner in everyone]
        return to, [sum(self._sizes(mine, number)) for number in everyone]

    def whole(self, updates: Mapping[int, Tensor]) -> list[Tensor]:
        """The matrices of this process's experts, and the dense ones that it owns."""
        sent, got = self._traffic(updates)
        slices = [piece.flatten() for piece in self._own(updates)]
        like = next(iter(updates.values()), torch.empty(0))
        leaving = torch.cat(slices) if slices else like.new_empty(0)
        found = leaving.new_empty(sum(got))
        dist.all_to_all_single(found, leaving, got, sent, group=self.group)
        mine = self._of(self.number, updates)
        pieces: list[list[Tensor]] = [[] for _ in mine]
        for number, part in enumerate(found.split(got)):
            for held, piece in zip(pieces, part.split(self._sizes(mine, number)), strict=True):
                held.append(piece)
        dense = zip(mine, pieces, strict=True)
        stacks = [update for place, update in updates.items() if place not in self.rows]
        return [torch.cat(held).view(-1, matrix.columns) for matrix, held in dense] + stacks

    def back(self, updates: Mapping[int, Tensor], matrices: list[Tensor]) -> None:
        """Each slice to the process that holds it."""
        got, sent = self._traffic(updates)
        mine = self._of(self.number, updates)
        leaving = [
            matrix[rows.start - where.rows.start : rows.stop - where.rows.start].flatten()
            for number in range(self.ways)
            for where, matrix in zip(mine, matrices, strict=False)
            if (rows := self._slice(where, number))
        ]
        like = next(iter(updates.values()), torch.empty(0))
        flat = torch.cat(leaving) if leaving else like.new_empty(0)
        found = flat.new_empty(sum(got))
        dist.all_to_all_single(found, flat, got, sent, group=self.group)
        slices = self._own(updates)
        for piece, came in zip(slices, found.split([p.numel() for p in slices]), strict=True):
            piece.copy_(came.view_as(piece))
