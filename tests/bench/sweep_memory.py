"""Memory of a sweep of many jobs: of the process that was called, of the one that starts workers, of the workers."""

import os
import re
import subprocess
import sys
import tempfile
from typing import NamedTuple

from tests.bench.measuring import ROOT, Table, tell

JOBS, EARLY = 200, 10
SHARED = ("model.hidden_size=4", "trainer=cpu", "trainer.max_epochs=1", "callbacks=none", "logger=none")
LAUNCHER = ("hydra/launcher=local", "hydra.launcher.start_method=forkserver")
PARENT, SERVER, WORKER = "parent", "fork server", "a worker"
ENDED = re.compile(r"\[ *(\d+)/")  # what the launcher tells of a job that has ended begins so


class Sample(NamedTuple):
    """Resident memory in MB when so many jobs have ended."""

    ended: int
    parent: float
    server: float
    workers: list[float]


def measure(rounds: int = 1) -> Table:
    """Resident memory at job 10 and at job 200; of workers that of all samples up to half of the jobs, and after."""
    values: dict[str, list[float]] = {}
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}: {JOBS} jobs …")
        for name, found in rows(sampled()).items():
            values.setdefault(name, []).extend(found)
    title = f"Resident memory of a sweep of {JOBS} short XOR jobs with the local launcher"
    shared = "fork server and workers share most of theirs: a page is counted in each process that has it"
    return Table(title, "MB", values, f"{PARENT} at job {EARLY}", (shared,))


def rows(samples: list[Sample]) -> dict[str, list[float]]:
    first, last = at(samples, EARLY), at(samples, JOBS)
    half = [sample for sample in samples if sample.ended <= JOBS // 2]
    return {
        f"{PARENT} at job {first.ended}": [first.parent],
        f"{PARENT} at job {last.ended}": [last.parent],
        f"{SERVER} at job {first.ended}": [first.server],
        f"{SERVER} at job {last.ended}": [last.server],
        f"{WORKER} up to job {JOBS // 2}": [size for sample in half for size in sample.workers],
        f"{WORKER} after job {JOBS // 2}": [size for sample in samples[len(half) :] for size in sample.workers],
    }


def at(samples: list[Sample], ended: int) -> Sample:
    return min(samples, key=lambda sample: abs(sample.ended - ended))


def sampled() -> list[Sample]:
    """Run the sweep, and look at its processes whenever a job has ended."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["-m", *SHARED, f"seed=range({JOBS})", *LAUNCHER, f"paths.outputs={folder}"]
        command = [sys.executable, "-m", "src.train", *overrides]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            found = [look(parent.pid, int(told[1])) for line in parent.stdout if (told := ENDED.match(line))]
        if parent.returncode or len(found) != JOBS:
            raise RuntimeError(f"{len(found)} of {JOBS} jobs have ended, the sweep with status {parent.returncode}")
        return [sample for sample in found if sample.parent]  # after the last job it may be gone before it is seen


def look(parent: int, ended: int) -> Sample:
    """The memory of a sweep's processes; a worker is a child of a child."""
    told = subprocess.run(["ps", "-axo", "pid=,ppid=,rss="], capture_output=True, check=True, text=True).stdout
    table = [tuple(map(int, line.split())) for line in told.splitlines()]
    size = {pid: kilobytes * 1024 / 1e6 for pid, _, kilobytes in table}
    children = [pid for pid, above, _ in table if above == parent]
    workers = [size[pid] for pid, above, _ in table if above in children and size[pid]]  # not those that have ended
    server = max((size[pid] for pid in children), default=0.0)
    return Sample(ended, size.get(parent, 0.0), server, workers)
