"""Training over many processes: mesh, shards, experts, columns, owners, checkpoints, plan."""
