"""The engine of ``hydra/launcher=slurm``: submits a sweep's jobs to Slurm as one job array, by submitit."""

import hashlib
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import submitit

from src.core.checks import LABEL, SECONDS, TEXT, Check, is_number, one_of, optional, require, whole
from src.core.errors import InputError
from src.core.places import slug
from src.sweeps.launchers.cluster import Errand, errand, follow
from src.sweeps.launchers.slurm_queue import Here, Queue
from src.sweeps.launchers.slurm_requeue import Attempts
from src.sweeps.launchers.sweep import Sweep, left_to_do
from src.sweeps.progress.monitor import Watch
from src.sweeps.store.jobs import Job

NOTICE = 60  # seconds before the time limit at which Slurm sends a job the signal to stop
EARLY = 65  # seconds: by its manual Slurm may send the signal 60 s too early, and a job takes a few seconds to start
ENDLESS = 1_000_000  # "unlimited", for submitit's limits on concurrent jobs and on requeues
SUBMITIT = ".submitit"  # folder in the sweep's folder for submitit's files and logs
OURS = ("array", "error", "job-name", "open-mode", "output", "requeue", "signal", "time")  # options that are set here
OPTIONS = Check(
    lambda value: (
        isinstance(value, Mapping)
        and not {str(name).replace("_", "-") for name in value} & set(OURS)
        and all(LABEL.allows(each) for name in value for each in (name, value[name]))
    ),
    f"options of sbatch by their names, as {{qos: long}}, but for {', '.join(OURS)}",
)
CHECKS = {
    "partition": optional(TEXT),
    "cpus_per_job": whole(1, 1024),
    "gpus_per_job": whole(0, 1024),
    "memory": optional(Check(lambda value: is_number(value) and 0 < value <= 1_000_000, "GB above 0, up to 1,000,000")),
    "time_limit": SECONDS,
    "requeues": whole(0, ENDLESS),
    "jobs": optional(whole(1, ENDLESS)),
    "options": optional(OPTIONS),
    "cluster": one_of("slurm", "local"),
}


class Slurm(NamedTuple):
    """Runs jobs on a Slurm cluster, each in a separate allocation.

    Attributes:
        partition: Slurm's partition; ``None``: the cluster's default.
        cpus_per_job: CPU cores of each job.
        gpus_per_job: GPUs of each job.
        memory: GB of each job; ``None``: the cluster's default.
        time_limit: seconds of one allocation; a job that reaches it is requeued and resumes.
        requeues: the number of times that a job may be requeued at its time limit.
        jobs: the maximum number of jobs at once; ``None``: no limit.
        options: further options of sbatch.
        cluster: "slurm", or "local": processes on this machine, to try things out without Slurm.
    """

    partition: str | None
    cpus_per_job: int
    gpus_per_job: int
    memory: float | None
    time_limit: float
    requeues: int
    jobs: int | None
    options: Mapping[str, Any] | None
    cluster: str

    def warm_up(self) -> None:
        """Do nothing: there are no slow preparations."""

    def run(self, sweep: Sweep, jobs: list[Job], watch: Watch) -> None:
        cluster = self.submission(sweep.folder.absolute())
        if end_earlier(cluster):
            jobs = left_to_do(jobs, sweep.config.rerun)  # some may have finished in the meantime
        remove_earlier(cluster.executor.folder)
        if jobs:
            watch.at_once(self.at_once or len(jobs))
            follow(cluster, jobs, lambda job: errand(sweep, job, self.cpus_per_job), watch)

    @property
    def at_once(self) -> int | None:
        return self.jobs or (os.cpu_count() if self.cluster == "local" else None)

    @property
    def notice(self) -> int:
        """Seconds before the time limit at which a job gets the signal: it needs time to stop and to be requeued."""
        return min(NOTICE, int(self.time_limit / 2))

    def submission(self, folder: Path) -> Queue | Here:
        """Create the cluster that runs the jobs of the sweep in a folder."""
        if self.cluster == "local":
            return Here(self.local_executor(own_folder(folder)), self.attempts, self.at_once or 1)
        name = f"{slug(folder.name)}-{hashlib.sha256(str(folder).encode()).hexdigest()[:10]}"
        return Queue(self.slurm_executor(own_folder(folder), name), self.attempts, name)

    def attempts(self, errand: Errand) -> Attempts:
        return Attempts(errand, self.time_limit - self.notice - EARLY, self.requeues)

    def local_executor(self, folder: Path) -> submitit.LocalExecutor:
        executor = submitit.LocalExecutor(folder, max_num_timeout=ENDLESS)
        minutes = self.time_limit / 60
        executor.update_parameters(timeout_min=minutes, signal_delay_s=self.notice, gpus_per_node=self.gpus_per_job)
        return executor

    def slurm_executor(self, folder: Path, name: str) -> submitit.SlurmExecutor:
        requested = {
            "partition": self.partition,
            "gpus_per_node": self.gpus_per_job or None,
            "mem": self.memory and f"{math.ceil(1024 * self.memory)}M",
        }
        executor = submitit.SlurmExecutor(folder, max_num_timeout=ENDLESS)
        executor.update_parameters(
            **{option: value for option, value in requested.items() if value is not None},
            job_name=name,
            time=math.ceil(self.time_limit / 60),
            signal_delay_s=self.notice,
            cpus_per_task=self.cpus_per_job,
            srun_args=[f"--cpus-per-task={self.cpus_per_job}"],  # since 22.05 srun does not inherit it from sbatch
            array_parallelism=self.jobs or ENDLESS,
            additional_parameters={"requeue": True, **(self.options or {})},
        )
        return executor


def own_folder(sweep: Path) -> Path:
    """Create a private folder for submitit's files of this start.

    Jobs and results are stored there as pickles, and unpickling runs arbitrary code: nobody else can have put files
    into a folder that is new, has an unpredictable name and is accessible only to its owner.
    """
    (sweep / SUBMITIT).mkdir(exist_ok=True)
    return Path(mkdtemp(dir=sweep / SUBMITIT))


def remove_earlier(own: Path) -> None:
    """Remove the files of earlier starts next to this start's folder."""
    for path in own.parent.iterdir():
        if path.is_dir() and path != own:
            shutil.rmtree(path, ignore_errors=True)
        elif path != own:
            path.unlink()


def end_earlier(cluster: Queue | Here) -> bool:
    """Stop the jobs of an earlier start that was killed, so that no job runs twice; return True if there were any."""
    left = cluster.left()
    if left:
        print("jobs of an earlier start are still in the queue: they are stopped first, then gone on with", flush=True)
        cluster.end(left)
    while left and cluster.left():
        time.sleep(1)
    return bool(left)


def check(settings: dict[str, Any]) -> None:
    """Refuse invalid launcher settings, and a machine without Slurm.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    require(settings, CHECKS, "hydra.launcher.")
    if settings["cluster"] == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        how = "start the sweep on a machine of the cluster, or try it out with hydra.launcher.cluster=local"
        raise InputError(f"hydra/launcher=slurm: there is no Slurm on this machine (no sbatch, no srun): {how}")
