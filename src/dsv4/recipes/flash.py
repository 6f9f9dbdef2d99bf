"""V4-Flash as the report states it (sections 4.2.1 and 4.2.2): 32T tokens, 75.5M a step.

Stated: tokens, batch, rates, sequence lengths, 1T tokens of dense attention, sparse attention from
64K on after a short stage for the indexer. Not stated, and chosen here: how the tokens spread over
the lengths, the ramp, where the rate begins to fall, and the indexer's stage, which is V3.2's (2.1B
tokens, 1e-3).
"""

from dsv4.train.recipe import Recipe, Stability, Stage, Text

T, B, K = 10**12, 10**9, 1024
BATCH = 18432 * 4 * K  # 75.5M tokens


def stages(batch: int, dense: int) -> tuple[Stage, ...]:
    """Dense attention up to 16K, the indexer alone, then 31T tokens of sparse attention."""
    return (
        Stage(attention="dense", tokens=7 * dense // 10, seq_len=4 * K, batch_tokens=batch),
        Stage(attention="dense", tokens=3 * dense // 10, seq_len=16 * K, batch_tokens=batch),
        Stage(
            attention="indexer",
            tokens=21 * B // 10,
            seq_len=64 * K,
            batch_tokens=32 * 64 * K,
            lr=1e-3,
        ),
        Stage(attention="sparse", tokens=30 * T, seq_len=64 * K, batch_tokens=batch),
        Stage(attention="sparse", tokens=1 * T, seq_len=1024 * K, batch_tokens=batch),
    )


RECIPE = Recipe(
    name="flash",
    model="flash",
    text=(Text(folder="data/pretrain"),),
    stages=stages(BATCH, dense=1 * T),
    lr=2.7e-4,
    floor=0.1,  # 2.7e-5
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
