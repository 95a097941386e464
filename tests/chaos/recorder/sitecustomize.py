"""Python imports this by itself where this folder is on PYTHONPATH: every process of a command then records."""

import os

if path := os.environ.get("CHAOS_RECORD"):
    from tests.chaos.recording import record_to

    record_to(path)
