"""Several processes of one test, gloo between them: each runs a function of a module."""

import datetime
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dsv4.train.parallel.mesh import Mesh
from dsv4.train.parallel.sizes import Sizes

# imported once, not in each process; the first model on a mesh imports torch._dynamo
PRELOAD = ["torch.distributed.fsdp", "torch.distributed.checkpoint", "torch._dynamo"]
mp.set_forkserver_preload([*PRELOAD, "dsv4.train.pretrain", "dsv4.train.parallel.saved"])
PATIENCE = datetime.timedelta(seconds=120)  # then a collective that hangs fails


def run(count, function, *args):
    """function(number, *args) in `count` processes → what each returned, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_one, (count, folder, function, args), count, start_method="forkserver")
        return [torch.load(Path(folder) / f"{n}.pt", weights_only=False) for n in range(count)]


def _one(number, count, folder, function, args):
    torch.set_num_threads(1)
    with joined(number, count, Path(folder) / "first"):
        found = function(number, *args)
    torch.save(found, Path(folder) / f"{number}.pt")


class joined:  # noqa: N801
    """A process group for the length of a block."""

    def __init__(self, number, count, file):
        self.given = {"rank": number, "world_size": count, "init_method": f"file://{file}"}

    def __enter__(self):
        dist.init_process_group("gloo", timeout=PATIENCE, **self.given)

    def __exit__(self, *_):
        dist.destroy_process_group()


def mesh_of(text):
    return Mesh(Sizes.parse(text))
