"""A nano-sized imitation of a checkpoint with a DSpark draft: nano's weights, a random draft."""

import torch

import dsv4
from dsv4.checkpoint.load import packaged

FIELDS = {
    "dspark_block_size": 5,
    "dspark_noise_token_id": 8191,
    "dspark_target_layer_ids": (3, 4, 5),
    "dspark_markov_rank": 32,
}


def imitate(folder, stages=3, seed=0, **changes):
    """Write it to `folder` in the released form, with nano's tokenizer."""
    nano = dsv4.load(dtype=torch.float32)
    ratios = (*nano.config.compress_ratios[:6], *[0] * stages)
    config = nano.config.replace(**(FIELDS | {"compress_ratios": ratios} | changes))
    model = dsv4.Transformer(config)
    model.initialize(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.mtp.named_parameters(), *model.mtp.named_buffers()):
            if not name.endswith("freqs"):
                tensor += 0.02 * torch.randn(tensor.shape, generator=generator)
    main = {n: t for n, t in nano.state_dict().items() if not n.startswith("mtp.")}
    model.load_state_dict(model.state_dict() | main)
    tokenizer = [packaged() / name for name in ("tokenizer.json", "tokenizer_config.json")]
    return dsv4.save(model.state_dict(), config, folder, tokenizer_files=tokenizer)
