"""What the processes of the parallel tests do: steps of training, whole or over a mesh."""

import torch

from dsv4 import Config, Transformer
from dsv4.model.precision import TRAINING
from dsv4.train.data import Batch
from dsv4.train.loss import losses, update_bias
from dsv4.train.optim import clip_gradients
from dsv4.train.parallel.shard import keep_own
from dsv4.train.whole import WHOLE

ROWS, COLUMNS, VOCAB, LR = 4, 64, 97, 1e-3
DOCUMENTS = [
    [40, 24],
    [64],
    [3, 3, 50],
    [10, 20, 30],
]  # the third closes few blocks, and has padding


def config(**changes):
    values = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "head_dim": 32,
        "qk_rope_head_dim": 16,
        "q_lora_rank": 32,
        "o_groups": 2,
        "o_lora_rank": 16,
        "sliding_window": 16,
        "compress_ratios": [0, 4, 16, 4, 0],
        "index_n_heads": 3,  # so a matrix of three rows, of which a fourth process has none
        "index_head_dim": 16,
        "index_topk": 8,
        "n_routed_experts": 12,  # three to a process of four, six over two
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "num_hash_layers": 1,
        "max_position_embeddings": 4096,
        "initializer_range": 0.1,
        "quantization_config": None,
        "expert_dtype": None,
        "torch_dtype": "float32",
    }
    return Config(**(values | changes))


def make_model(precision="float32", **changes):
    model = Transformer(config(**changes), precision=TRAINING[precision])
    model.initialize(0)
    return model


def batch(step, documents=DOCUMENTS):
    generator = torch.Generator().manual_seed(step)
    wide = torch.randint(VOCAB, (ROWS, COLUMNS + 2), generator=generator)
    ids, next_ids, after = wide[:, :-2], wide[:, 1:-1], wide[:, 2:]
    targets = next_ids.masked_fill(torch.arange(ROWS * COLUMNS).view(ROWS, -1) % 7 == 0, -100)
    return Batch(ids, next_ids, targets, after, documents)


def total(found):
    value = found.next_token + 0.3 * found.mtp + found.balance
    return value if found.index is None else value + found.index


def sharded_model(mesh, precision="float32", **changes):
    """What `make_model` makes, over a mesh."""
    model = mesh.model(config(**changes), TRAINING[precision])
    mesh.initialize(model, 0)
    return model


def gathered(model, mesh):
    """Whole weights and buffers by name."""
    return {name: tensor.clone() for name, tensor in mesh.weights(model)}


def gathered_gradients(model, mesh):
    """Whole gradients, by way of the weights; none: zeros."""
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.zero_()
            if parameter.grad is not None:
                parameter.add_(parameter.grad)
    return gathered(model, mesh)


def descent(model, plain, mesh=WHOLE):
    """The run's optimizers; or `plain` descent, which does not blow up the noise of small gradients
    as a division by their size does, so that steps can be compared closely."""
    if plain:
        return [torch.optim.SGD(model.parameters(), lr=0.05)]
    return mesh.optimizers(model, lr=LR, weight_decay=0.1)


def begin(model, start, mesh):
    """Whole weights in place of a model's, of which each process keeps its own."""
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    for name, whole in start.items():
        keep_own(name, tensors[name], whole, mesh)


def whole_steps(steps, documents=DOCUMENTS, *, plain=True, model=None, start=None, **asked):
    """One process, from `start` (weights by name) where it is given: losses and norms of each step,
    weights, gradients of the last step."""
    model = make_model(**(model or {}))
    begin(model, start or {}, WHOLE)
    movers, log = descent(model, plain), []
    for step in range(steps):
        model.zero_grad()
        found = losses(model, batch(step, documents), **asked)
        total(found).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        norm = torch.nn.utils.get_total_norm(gradients.values())
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), 1.0, norm)
        for mover in movers:
            mover.step()
        update_bias(model, found.loads)
        log.append((found, norm))
    return log, gathered(model, WHOLE), gradients


def mesh_steps(
    mesh,
    steps,
    documents=DOCUMENTS,
    *,
    plain=True,
    recompute=False,
    model=None,
    start=None,
    **asked,
):
    """The same over a mesh."""
    model = sharded_model(mesh, **(model or {}))
    begin(model, start or {}, mesh)
    model.recompute = recompute
    movers, log = descent(model, plain, mesh), []
    for step in range(steps):
        model.zero_grad()
        part = losses(model, mesh.part(batch(step, documents)), whole=mesh, **asked)
        total(part).backward()
        found, norm = part.over_all(mesh), mesh.norm(model, {})
        clip_gradients(model, 1.0, norm)
        for mover in movers:
            mover.step()
        update_bias(model, found.loads)
        log.append((found, norm))
    last = {n for n, p in model.named_parameters() if p.grad is not None}
    weights, gradients = gathered(model, mesh), gathered_gradients(model, mesh)
    return log, weights, {name: gradients[name] for name in last}
