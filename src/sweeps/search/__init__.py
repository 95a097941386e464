"""Searches: sweeps whose next jobs depend on the results of those before."""
