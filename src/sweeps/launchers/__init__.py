"""Launchers: how the jobs of a sweep are planned and run."""
