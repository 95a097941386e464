"""Runs ``pytest -m gpu`` in a process of its own and reads what came of it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.measuring import ROOT, tell
from tests.gpu.stage import LAST, Stage

BYTES_PER_WORKER = 2**33  # of a GPU's memory, for each process that runs tests


def run_pytest(stage: Stage) -> dict[str, Any]:
    """Return the names of the tests that passed, that failed with the end of why, and that were not run.

    Raises:
        RuntimeError: if pytest finds none.
    """
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short"]
    command += [f"--numprocesses={count_workers(stage)}", "--dist=worksteal"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        told = {"GPU_REPORT": str(report), "GPU_DRY": str(int(stage.dry))}
        limited = {} if stage.dry else {"GPU_SECONDS": str(stage.left - LAST)}
        try:
            subprocess.run(command, cwd=ROOT, env={**os.environ, **told, **limited}, timeout=stage.limit, check=False)
        except subprocess.TimeoutExpired as error:
            tell(f"tests: one of them did not end; all were stopped after {error.timeout:.0f} s")
        lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    if not lines or not lines[0]:
        raise RuntimeError("pytest finds no tests; what it says stands above")
    found: dict[str, str | None] = {}
    for name, fault in lines[1:]:
        found[name] = found.get(name) or fault
    return {
        "passed": [name for name, fault in found.items() if fault is None],
        "failed": {name: fault for name, fault in found.items() if fault is not None},
        "not_run": [name for name in lines[0] if name not in found],
    }


def count_workers(stage: Stage) -> int:
    """Return how many processes run tests at once: most of a test's time is the host's."""
    cores = os.cpu_count() or 1
    if stage.dry:
        return cores
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory
    return max(1, min(cores, memory // BYTES_PER_WORKER))
