"""Muon over shards, to the bit; the knapsack that gives matrices their owners."""

import processes
import pytest
import sharded
import torch

from dsv4 import Config, Transformer
from dsv4.train.optim import optimizers, orthogonalise
from dsv4.train.parallel.owners import assign, cost, shard
from dsv4.train.parallel.shard import keep_own, whole_shape


def gradient(name, shape, step):
    seed = sum(map(ord, name)) + 1000 * step
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moved(model, movers, give, steps):
    """Steps with gradients made up from names; some parameters have none in the first."""
    for step in range(steps):
        model.zero_grad()
        for name, parameter in model.named_parameters():
            if step or "indexer" not in name:
                parameter.grad = give(name, parameter, step)
        for mover in movers:
            mover.step()


def of_one(config):
    model = Transformer(config)
    model.initialize(0)
    movers = optimizers(model, config, lr=0.01)
    moved(model, movers, lambda name, p, step: gradient(name, p.shape, step), 3)
    return model


def over_meshes(number, texts, changes):
    found = {}
    for text in texts:
        mesh = processes.mesh_of(text)
        model = sharded.sharded_model(mesh, **changes)
        movers = mesh.optimizers(model, lr=0.01, weight_decay=0.1)

        def give(name, parameter, step, mesh=mesh):
            found = torch.zeros_like(parameter)
            whole = gradient(name, whole_shape(name, parameter, mesh), step)
            keep_own(name, found, whole, mesh)
            return found

        moved(model, movers, give, 3)
        empty = [n for n, p in model.named_parameters() if not p.to_local().numel()]
        moments = sum(state["momentum"].to_local().numel() for state in movers[0].state.values())
        found[text] = sharded.gathered(model, mesh), empty, moments, movers[0].matrices.loads
    return found


@pytest.mark.parametrize(
    "count, texts", [(2, ["dp=2"]), (4, ["dp=4", "dp=2 cp=2 ep=2", "cp=4 ep=4"])]
)
def test_an_update_over_shards_is_the_update_to_the_bit(count, texts):
    changes = {"n_routed_experts": 20, "q_lora_rank": 30}  # 5 experts over two or four processes
    model = of_one(sharded.config(**changes))
    found = processes.run(count, over_meshes, texts, changes)
    for text in texts:
        assert count == 2 or found[-1][text][1], "some shard of the last process is empty"
        for each in found:
            for name, weight in model.state_dict().items():
                assert torch.equal(each[text][0][name], weight), (text, name)
        numbers = sum(p.numel() for n, p in model.named_parameters() if p.dim() > 1)
        numbers -= 2 * model.embed.weight.numel()
        assert sum(each[text][2] for each in found) == numbers  # each moment lies in one process


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(4, 64), (16, 40), (40, 16), (33, 129), (1, 40), (96, 256)])
def test_a_matrix_does_not_know_its_batch(shape, threads):
    torch.set_num_threads(threads)
    g = torch.randn(7, *shape)
    whole = orthogonalise(g)
    torch.set_num_threads(2)
    for first, last in ((0, 1), (1, 3), (3, 7)):
        assert torch.equal(orthogonalise(g[first:last]), whole[first:last])
    for number in range(7):
        assert torch.equal(orthogonalise(g[number].clone()), whole[number])


def test_shards_are_those_of_chunk():
    for rows in range(1, 20):
        for ways in (1, 2, 3, 4, 7):
            parts = torch.arange(rows).chunk(ways)
            for number in range(ways):
                expected = parts[number].tolist() if number < len(parts) else []
                assert list(shard(rows, ways, number)) == expected


@pytest.mark.parametrize("ways", [8, 64])
def test_owners_of_flash_are_balanced(ways):
    config = Config.from_preset("flash")
    costs = [cost(32768, 1024), cost(4096, 8192), cost(512, 4096), cost(24, 16384)] * 43
    loads = [0] * ways
    owners = assign(costs, loads)
    for number in range(ways):
        mine = sum(c for c, o in zip(costs, owners, strict=True) if o == number)
        assert mine == loads[number]
    largest = max(costs)
    assert max(loads) <= sum(costs) / ways + largest
    assert config.num_hidden_layers == 43
    assert assign([5, 5, 1], [9, 0]) == [1, 1, 0]
