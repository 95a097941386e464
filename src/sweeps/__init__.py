"""Sweeps: what many runs show together."""
