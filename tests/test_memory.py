"""Prefill of 32,768 tokens on the 18M shape stays under 2 GiB above the weights."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from dsv4 import Config, Transformer
torch.set_num_threads(2)
config = Config(vocab_size=8192, hidden_size=256, num_hidden_layers=8, num_attention_heads=8,
    head_dim=64, qk_rope_head_dim=16, q_lora_rank=128, o_groups=2, o_lora_rank=128,
    compress_ratios=(0, 0, 4, 128, 4, 128, 4, 128, 0), index_n_heads=4, index_head_dim=32,
    index_topk=64, n_routed_experts=16, num_experts_per_tok=4, moe_intermediate_size=128,
    max_position_embeddings=65536)
model = Transformer(config)
model.initialize(0)
cache, ids = model.new_cache(1), torch.randint(8192, (1, {n}))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.inference_mode():
    model(ids[:, :64])
    before = peak()
    logits = model(ids, cache)
assert logits.shape == (1, {n}, 8192)
print((peak() - before) / 2**20)
"""


def peak_gib(n):
    source = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(n=n)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    return float(done.stdout)


@pytest.mark.slow
def test_prefill_of_32k_in_one_call_stays_under_two_gib():
    small, large = peak_gib(8192), peak_gib(32768)
    print(f"peak above the weights: {small:.2f} GiB at 8,192, {large:.2f} GiB at 32,768")
    assert large < 2.0
    assert large < 6 * small  # about four: a dense mask would give sixteen
