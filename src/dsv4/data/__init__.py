"""Documents → token files → best-fit packed rows, mixed by weight, from any position; no torch."""
