"""A tiny model's fields with a DSpark draft of two stages."""

DSPARK = {
    "compress_ratios": [0, 4, 16, 0, 0],
    "num_hidden_layers": 3,
    "sliding_window": 8,
    "dspark_block_size": 4,
    "dspark_noise_token_id": 90,
    "dspark_target_layer_ids": (0, 2),
    "dspark_markov_rank": 6,
}
