"""The account of a mesh against what four processes hold and hand to collectives."""

from collections import Counter
from contextlib import contextmanager

import processes
import pytest
import sharded
import torch
import torch.distributed as dist

from dsv4 import Config
from dsv4.recipes import find
from dsv4.train.loss import losses
from dsv4.train.optim import local
from dsv4.train.override import override
from dsv4.train.parallel import volume
from dsv4.train.parallel.sizes import Sizes
from dsv4.train.plan import described

MESHES = ["dp=4", "dp=4 ep=4", "dp=2 cp=2 ep=2", "cp=4"]
KINDS = {"all_gather_single": 0, "all_gather_into_tensor": 0, "reduce_scatter_single": 1}
KINDS |= {"reduce_scatter_tensor": 1, "all_to_all_single": 1}  # the argument that is counted


@contextmanager
def counted(found):
    """Bytes handed to collectives, by their name and whether FSDP calls (it says async_op)."""
    kept = {name: getattr(dist, name) for name in KINDS if hasattr(dist, name)}
    depth = []

    def count(name, call):
        def counting(*args, **kwargs):
            given = [*args, *kwargs.values()]
            if not depth:
                found[name, "async_op" in kwargs] += given[KINDS[name]].nbytes
            depth.append(name)
            try:
                return call(*args, **kwargs)
            finally:
                depth.pop()

        return counting

    for name, call in kept.items():
        setattr(dist, name, count(name, call))
    try:
        yield
    finally:
        for name, call in kept.items():
            setattr(dist, name, call)


def account(number, texts):
    told = {}
    for text in texts:
        mesh = processes.mesh_of(text)
        model = sharded.sharded_model(mesh)
        movers = mesh.optimizers(model, lr=1e-3, weight_decay=0.1)
        forward, update = Counter(), Counter()
        with counted(forward):
            part = losses(model, mesh.part(sharded.batch(0, None)), whole=mesh, index=True)
            sharded.total(part).backward()
        gradients = sum(local(p.grad).nbytes for p in model.parameters() if p.grad is not None)
        with counted(update):
            for mover in movers:
                mover.step()
        mesh.settle(model)
        held = {
            "weights": sum(local(p.detach()).nbytes for p in model.parameters()),
            "gradients": gradients,
            "buffers": sum(b.nbytes for n, b in model.named_buffers() if "freqs" not in n),
        }
        for name, mover in zip(("muon", "adamw"), movers, strict=True):
            moments = [m for state in mover.state.values() for m in state.values() if m.dim()]
            held[name] = sum(local(moment).nbytes for moment in moments)
        told[text] = held, forward, update
    return told


def test_what_four_processes_hold_and_move_is_what_the_plan_says():
    told = processes.run(4, account, MESHES)
    for text in MESHES:
        found = volume.Volume(sharded.config(), Sizes.parse(text))
        moved = found.moved(sharded.ROWS, sharded.COLUMNS, index=True)
        sums = Counter()
        for number, each in enumerate(told):
            held, forward, update = each[text]
            planned = vars(found.held(number))
            assert held == {name: planned[name] for name in held}, (text, number)
            for (name, by_fsdp), nbytes in forward.items():
                if by_fsdp:
                    sums["weights" if "gather" in name else "gradients"] += nbytes
                else:
                    sums["experts and columns"] += nbytes
            sums["muon"] += sum(update.values())
        planned = {
            "weights": moved.gather_weights,
            "gradients": moved.scatter_gradients,
            "experts and columns": moved.experts + moved.columns,
            "muon": moved.muon,
        }
        for name, nbytes in planned.items():
            assert abs(sums[name] / 4 - nbytes) <= 1, (text, name, sums[name] / 4, nbytes)


def test_a_plan_of_flash_names_every_part():
    mesh = "dp=64 cp=4 ep=64"
    lines = "\n".join(described(override(find("flash"), [f"mesh={mesh}"])))
    for word in ("weights", "gradients", "muon", "adamw", "gathered", "experts", "columns"):
        assert f" {word}" in lines
    assert "256 processes" in lines
    held = volume.Volume(Config.from_preset("flash"), Sizes.parse(mesh)).held()
    assert 290e9 * 4 / 256 < held.weights < 1.02 * 291e9 * 4 / 256


@pytest.mark.parametrize(
    "words, said",
    [
        ("mesh=dp=2 xp=2", "must be words as in"),
        ("mesh=dp=3 ep=2", "ep must divide dp × cp = 3"),
        ("mesh=dp=0", "dp=0: must be a whole number from 1 on"),
        ("mesh=cp=3", "seq_len = 4096: cp=3 of the mesh must divide it"),
        ("mesh=dp=7 ep=7", "n_routed_experts = 256: ep=7 of the mesh must divide it"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused_in_one_line(words, said):
    with pytest.raises(ValueError, match=said) as error:
        override(find("flash"), [words]).check()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sizes", [Sizes(), Sizes(dp=8, ep=8)])
def test_shards_are_all_of_the_model(sizes):
    config = Config.from_preset("nano")
    found = volume.Volume(config, sizes)
    numbers = sum(torch.Size(tensor.shape).numel() for tensor in found.tensors)
    assert sum(found.held(number).weights for number in range(sizes.processes)) == 4 * numbers
