"""What the others are compared with: nano's shape, 400K tokens, Muon."""

from dsv4.train.recipe import Recipe, Stability, Stage

RECIPE = Recipe(
    name="base",
    model="nano",
    stages=(Stage(tokens=200 * 2048, seq_len=512, batch_tokens=2048),),
    lr=1e-2,
    warmup=25,
    decay=0.5,
    precision="bfloat16",
    evaluate_every=40,
    evaluate_tokens=4096,
    save_every=100,
    keep=1,
    stability=Stability(window=0),
)
