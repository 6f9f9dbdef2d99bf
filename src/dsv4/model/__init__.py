"""The model: modules named as the released tensors are, one forward for every use."""
