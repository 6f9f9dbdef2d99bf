"""Steps over a mesh are those of one process: losses, gradients, weights, balance biases."""

import processes
import pytest
import sharded
import torch

from dsv4.train.data import Batch
from dsv4.train.loss import real_tokens

MESHES = {2: ["dp=2", "cp=2", "dp=2 ep=2"], 4: ["dp=4", "cp=4", "cp=4 ep=4", "dp=2 cp=2 ep=2"]}
STEPS = 2
CASES = {
    "packed": {},
    "one document": {"documents": None},
    "indexer, dense": {"index": True, "dense": True},
    "indexer, sparse": {"index": True},
    "short documents": {"documents": [[3] * 20] * 4},  # nothing closes anywhere, at any ratio
    "Muon and AdamW": {"plain": False},
}


def every_case(number, texts):
    found = {}
    for place, text in enumerate(texts):
        mesh = processes.mesh_of(text)
        check_parts(mesh)
        for case, asked in CASES.items():
            if case == "packed" or text == texts[-1]:
                done = sharded.mesh_steps(mesh, STEPS, recompute=place % 2 == 1, **asked)
                found[text, case] = done if number == 0 else None
    return found


def check_parts(mesh):
    """Three rows, which no mesh divides: parts are all of them once, and experts of all tokens that
    are gathered and given out again are the same."""
    whole = sharded.batch(0)
    three = Batch(
        whole.ids[:3], whole.next_ids[:3], whole.targets[:3], whole.mtp_targets[:3], [[64]] * 3
    )
    part = mesh.part(three)
    assert int(mesh.over_all((part.targets >= 0).sum())) == int((three.targets >= 0).sum())
    assert int(mesh.over_all(real_tokens(part).sum())) == three.ids.numel()
    experts = torch.arange(three.ids.numel() * 2).view(-1, 2)
    own = mesh.told(three, experts)
    assert own.shape == (part.ids.numel(), 2)
    assert torch.equal(mesh.chosen(three, own), experts)


@pytest.fixture(scope="module")
def whole():
    return {case: sharded.whole_steps(STEPS, **asked) for case, asked in CASES.items()}


@pytest.mark.parametrize("count", MESHES)
def test_steps_over_a_mesh_are_those_of_one_process(count, whole):
    found = processes.run(count, every_case, MESHES[count])[0]
    assert {text for text, _ in found} == set(MESHES[count])
    for (text, case), (log, weights, gradients) in found.items():
        expected, expected_weights, expected_gradients = whole[case]
        plain = CASES[case].get("plain", True)
        same_steps(log, expected, 1e-5 if plain else 1e-3, (text, case))
        assert gradients.keys() == expected_gradients.keys(), (text, case)
        assert weights.keys() == expected_weights.keys()
        if plain:
            for (ours, _), (theirs, _) in zip(log, expected, strict=True):
                assert torch.equal(ours.loads, theirs.loads), (text, case)
            close(weights, expected_weights, 2e-5, (text, case))
            close(gradients, expected_gradients, 1e-3, (text, case))


def same_steps(log, expected, tolerance, case):
    for (ours, norm), (theirs, wanted) in zip(log, expected, strict=True):
        assert abs(norm - wanted) < 20 * tolerance * wanted, case
        assert torch.equal(ours.loads.sum(1), theirs.loads.sum(1)), case
        for name in ("next_token", "mtp", "balance", "index", "recall"):
            one, other = getattr(ours, name), getattr(theirs, name)
            assert (one is None) == (other is None), (*case, name)
            assert one is None or abs(one - other) <= tolerance * abs(other), (*case, name)


def close(found, expected, tolerance, case):
    for name, wanted in expected.items():
        error = (found[name] - wanted).abs().max()
        assert error <= tolerance * wanted.abs().max() + 1e-8, (*case, name, error)
