"""Steps over a mesh are those of one process: losses, gradients, weights, balance biases."""

import processes
import pytest
import sharded
import torch

from dsv4.model import moe
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


# ---- what is rounded ----------------------------------------------------------------------------

ROUNDED = [
    {"precision": "bfloat16"},
    {"precision": "fp8"},
]


def multiplied(log):
    """A `routed_experts` that notes its matrices, and its rows as they are multiplied."""
    called = moe.routed_experts

    def noting(x, indices, weights, *matrices, operand=None, **more):
        rows = x if operand is None else operand(x)
        log.append((rows.detach().clone(), [matrix.detach().clone() for matrix in matrices[:3]]))
        return called(x, indices, weights, *matrices, operand=operand, **more)

    return noting


def noted_steps(steps, *words, **asked):
    log = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moe, "routed_experts", multiplied(log))
        found = steps(*words, STEPS, index=True, **asked)
    return found, log


def rounded_steps(number, texts):
    return {
        (text, case): noted_steps(sharded.mesh_steps, processes.mesh_of(text), model=model)
        for text in texts
        for case, model in enumerate(ROUNDED)
    }


def test_what_is_multiplied_over_a_mesh_is_rounded_as_in_one_process():
    """Matrices of a first step to the bit, those of this process's experts with expert parallelism;
    rows too; so losses are one process's, and after a step as near as rounding lets them be."""
    ranks = processes.run(2, rounded_steps, MESHES[2])
    for case, model in enumerate(ROUNDED):
        expected, matrices = noted_steps(sharded.whole_steps, model=model)
        plain = sharded.whole_steps(STEPS, index=True)[0]
        assert abs(expected[0][0][0].next_token - plain[0][0].next_token) > 1e-5, model
        for text in MESHES[2]:
            for number, found in enumerate(ranks):
                (log, _, _), noted = found[text, case]
                assert len(noted) == len(matrices)
                for layer in range(len(noted) // STEPS):
                    own = slice(6 * number, 6 * number + 6) if "ep" in text else slice(None)
                    for ours, theirs in zip(noted[layer][1], matrices[layer][1], strict=True):
                        assert torch.equal(ours, theirs[own]), (text, model, layer)
                rows = {row.numpy().tobytes() for row in matrices[0][0]} | {bytes(4 * 64)}
                assert {row.numpy().tobytes() for row in noted[0][0]} <= rows, (text, model)
                for (ours, norm), (theirs, wanted), near in zip(
                    log, expected[0], (1e-4, 5e-3), strict=True
                ):
                    assert abs(norm - wanted) < 50 * near * wanted, (text, model)
                    # which entries are chosen may turn on a rounded bit after a step
                    names = ("next_token", "mtp", "balance", "index")
                    for name in names if near < 1e-3 else names[:2]:
                        one, other = getattr(ours, name), getattr(theirs, name)
                        assert abs(one - other) <= near * abs(other), (text, model, name)
