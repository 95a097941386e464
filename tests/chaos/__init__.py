"""Chaos: faults made by generators, each of which must cost what it must and nothing more."""
