"""Data sets: tensors in, batches out."""
