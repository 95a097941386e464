"""Foundations that every other package may import; only `src.storage.tensors` imports PyTorch."""
