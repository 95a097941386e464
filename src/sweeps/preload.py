"""Imported by the process that workers are forked from: what they need is then there already."""

from src.sweeps.worker import prepare

prepare()
