"""Foundations that every other part may import; nothing here imports PyTorch."""
