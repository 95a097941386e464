"""Callbacks: figures, the progress bar, the metrics' history, seeding and early stopping."""
