"""Checkpoints of a run: written while it trains, and resumed from."""
