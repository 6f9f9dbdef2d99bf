"""What the packaged nano was trained by: dense, longer rows, the indexer alone, sparse, to 4,096.

dsv4 data build data --without chinese,vim,perl,octave,manpages,handbook
dsv4 train benchmarks/nano.py --out runs/base
python benchmarks/package.py runs/base
"""

from dsv4.train.recipe import Recipe, Stability, Stage, Text

RECIPE = Recipe(
    name="nano",
    model="nano",
    text=(Text(folder="data"),),
    stages=(
        Stage(attention="dense", tokens=8_500_000, seq_len=256, batch_tokens=4096),
        Stage(attention="dense", tokens=4_500_000, seq_len=1024, batch_tokens=8192),
        Stage(attention="indexer", tokens=1_000_000, seq_len=1024, batch_tokens=4096, lr=3e-3),
        Stage(attention="sparse", tokens=4_200_000, seq_len=1024, batch_tokens=8192),
        Stage(attention="sparse", tokens=1_800_000, seq_len=4096, batch_tokens=8192),
    ),
    lr=1e-2,
    warmup=100,
    decay=0.5,
    precision="bfloat16",
    micro_tokens=4096,
    evaluate_every=500,
    evaluate_tokens=1 << 13,
    save_every=100,
    keep=3,
    stability=Stability(on_bad_batch="skip"),
)
