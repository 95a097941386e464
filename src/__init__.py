"""Thunderhead: neural-network experiments on PyTorch Lightning and Hydra."""
