"""Training: text → packed batches → the model's forward → loss → optimizer → checkpoint."""
