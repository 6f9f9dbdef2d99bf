"""The operators, in plain torch: tensors in, tensors out; no config, no modules, no state."""
