"""Benchmarks: `make bench` measures, side by side in one run, what the README claims of speed."""
