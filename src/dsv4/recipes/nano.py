"""A small V4 on 11M tokens of simple English: dense, longer rows, the indexer alone, sparse."""

from dsv4.train.recipe import Recipe, Stability, Stage

BATCH = 4096  # tokens a step

RECIPE = Recipe(
    name="nano",
    model="nano",
    stages=(
        Stage(attention="dense", tokens=1500 * BATCH, seq_len=256, batch_tokens=BATCH),
        Stage(attention="dense", tokens=500 * BATCH, seq_len=1024, batch_tokens=BATCH),
        Stage(attention="indexer", tokens=100 * BATCH, seq_len=1024, batch_tokens=BATCH, lr=3e-3),
        Stage(attention="sparse", tokens=600 * BATCH, seq_len=1024, batch_tokens=BATCH),
    ),
    lr=1e-2,
    warmup=40,
    decay=0.5,
    micro_tokens=4096,
    stability=Stability(on_bad_batch="skip"),
)
