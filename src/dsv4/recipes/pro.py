"""V4-Pro as the report states it (sections 4.2.1 and 4.2.2): 33T tokens, 94.4M a step.

As flash; the dense stage is longer, by how much is not stated: here it is 2T tokens.
"""

from dsv4.train.recipe import Recipe, Stability, Stage, Text

T, B, K = 10**12, 10**9, 1024
BATCH = 23040 * 4 * K  # 94.4M tokens

RECIPE = Recipe(
    name="pro",
    model="pro",
    text=(Text(folder="data/pretrain"),),
    stages=(
        Stage(attention="dense", tokens=14 * T // 10, seq_len=4 * K, batch_tokens=BATCH),
        Stage(attention="dense", tokens=6 * T // 10, seq_len=16 * K, batch_tokens=BATCH),
        Stage(
            attention="indexer",
            tokens=21 * B // 10,
            seq_len=64 * K,
            batch_tokens=32 * 64 * K,
            lr=1e-3,
        ),
        Stage(attention="sparse", tokens=30 * T, seq_len=64 * K, batch_tokens=BATCH),
        Stage(attention="sparse", tokens=1 * T, seq_len=1024 * K, batch_tokens=BATCH),
    ),
    lr=2.0e-4,
    floor=0.1,  # 2.0e-5
    warmup=2000,
    decay=0.2,
    ramp_from=BATCH // 16,
    ramp_tokens=T // 10,
    micro_tokens=1024 * K,
    recompute=True,
    evaluate_every=1000,
    evaluate_tokens=64 * 1024 * K,
    save_every=500,
    keep=8,
    stability=Stability(on_bad_batch="skip"),
)
