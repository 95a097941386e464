"""Callbacks: what is shown of a run, and what is kept."""
