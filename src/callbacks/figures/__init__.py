"""Figures that a run draws of its data, its model and its learning."""
