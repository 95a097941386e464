"""Optimizers and schedules: their settings, and those that torch lacks."""
