"""Checks of a run's settings before any data are loaded."""
