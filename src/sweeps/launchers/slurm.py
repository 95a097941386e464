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

from src.core.checks import (
    LABEL,
    SECONDS,
    TEXT,
    Check,
    allow_integer,
    allow_null_or,
    allow_one_of,
    check_settings,
    is_number,
)
from src.core.errors import InputError
from src.core.places import to_slug
from src.sweeps.launchers.cluster import RemoteJob, make_remote_job, run_on_cluster
from src.sweeps.launchers.slurm_queue import LocalCluster, SlurmQueue
from src.sweeps.launchers.slurm_requeue import RequeueableJob
from src.sweeps.launchers.sweep import Sweep, select_pending_jobs
from src.sweeps.progress.monitor import SweepMonitor
from src.sweeps.store.jobs import Job

NOTICE_SECONDS = 60  # seconds before the time limit at which Slurm sends a job the signal to stop
NOTICE_MARGIN_SECONDS = (
    65  # seconds: by its manual Slurm may send the signal 60 s too early, and a job takes a few seconds to start
)
UNLIMITED = 1_000_000  # "unlimited", for submitit's limits on concurrent jobs and on requeues
SUBMITIT_FOLDER = ".submitit"  # folder in the sweep's folder for submitit's files and logs
RESERVED_OPTIONS = (
    "array",
    "error",
    "job-name",
    "open-mode",
    "output",
    "requeue",
    "signal",
    "time",
)  # options that are set here
OPTIONS = Check(
    lambda value: (
        isinstance(value, Mapping)
        and not {str(name).replace("_", "-") for name in value} & set(RESERVED_OPTIONS)
        and all(LABEL.allows(each) for name in value for each in (name, value[name]))
    ),
    f"a mapping of sbatch options, such as {{qos: long}}, except {', '.join(RESERVED_OPTIONS)}",
)
CHECKS = {
    "partition": allow_null_or(TEXT),
    "cpus_per_job": allow_integer(1, 1024),
    "gpus_per_job": allow_integer(0, 1024),
    "memory": allow_null_or(
        Check(lambda value: is_number(value) and 0 < value <= 1_000_000, "GB above 0, up to 1,000,000")
    ),
    "time_limit": SECONDS,
    "requeues": allow_integer(0, UNLIMITED),
    "jobs": allow_null_or(allow_integer(1, UNLIMITED)),
    "options": allow_null_or(OPTIONS),
    "cluster": allow_one_of("slurm", "local"),
}


class SlurmEngine(NamedTuple):
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

    def run(self, sweep: Sweep, jobs: list[Job], watch: SweepMonitor) -> None:
        cluster = self.make_cluster(sweep.folder.absolute())
        if _stop_earlier_jobs(cluster):
            jobs = select_pending_jobs(jobs, sweep.config.rerun)  # some may have finished in the meantime
        remove_earlier_files(cluster.executor.folder)
        if jobs:
            watch.set_parallel_jobs(self.max_jobs or len(jobs))
            run_on_cluster(cluster, jobs, lambda job: make_remote_job(sweep, job, self.cpus_per_job), watch)

    @property
    def max_jobs(self) -> int | None:
        return self.jobs or (os.cpu_count() if self.cluster == "local" else None)

    @property
    def notice_seconds(self) -> int:
        """Seconds before the time limit at which a job gets the signal: it needs time to stop and to be requeued."""
        return min(NOTICE_SECONDS, int(self.time_limit / 2))

    def make_cluster(self, folder: Path) -> SlurmQueue | LocalCluster:
        """Create the cluster that runs the jobs of the sweep in a folder."""
        if self.cluster == "local":
            return LocalCluster(
                self.make_local_executor(make_private_folder(folder)), self.wrap_job, self.max_jobs or 1
            )
        name = f"{to_slug(folder.name)}-{hashlib.sha256(str(folder).encode()).hexdigest()[:10]}"
        return SlurmQueue(self.make_slurm_executor(make_private_folder(folder), name), self.wrap_job, name)

    def wrap_job(self, remote_job: RemoteJob) -> RequeueableJob:
        return RequeueableJob(remote_job, self.time_limit - self.notice_seconds - NOTICE_MARGIN_SECONDS, self.requeues)

    def make_local_executor(self, folder: Path) -> submitit.LocalExecutor:
        executor = submitit.LocalExecutor(folder, max_num_timeout=UNLIMITED)
        minutes = self.time_limit / 60
        executor.update_parameters(
            timeout_min=minutes, signal_delay_s=self.notice_seconds, gpus_per_node=self.gpus_per_job
        )
        return executor

    def make_slurm_executor(self, folder: Path, name: str) -> submitit.SlurmExecutor:
        requested = {
            "partition": self.partition,
            "gpus_per_node": self.gpus_per_job or None,
            "mem": self.memory and f"{math.ceil(1024 * self.memory)}M",
        }
        executor = submitit.SlurmExecutor(folder, max_num_timeout=UNLIMITED)
        executor.update_parameters(
            **{option: value for option, value in requested.items() if value is not None},
            job_name=name,
            time=math.ceil(self.time_limit / 60),
            signal_delay_s=self.notice_seconds,
            cpus_per_task=self.cpus_per_job,
            srun_args=[f"--cpus-per-task={self.cpus_per_job}"],  # since 22.05 srun does not inherit it from sbatch
            array_parallelism=self.jobs or UNLIMITED,
            additional_parameters={"requeue": True, **(self.options or {})},
        )
        return executor


def make_private_folder(sweep: Path) -> Path:
    """Create a private folder for submitit's files of this start.

    Jobs and results are stored there as pickles, and unpickling runs arbitrary code: nobody else can have put files
    into a folder that is new, has an unpredictable name and is accessible only to its owner.
    """
    (sweep / SUBMITIT_FOLDER).mkdir(exist_ok=True)
    return Path(mkdtemp(dir=sweep / SUBMITIT_FOLDER))


def remove_earlier_files(current: Path) -> None:
    """Remove the files of earlier starts next to this start's folder."""
    for path in current.parent.iterdir():
        if path.is_dir() and path != current:
            shutil.rmtree(path, ignore_errors=True)
        elif path != current:
            path.unlink()


def _stop_earlier_jobs(cluster: SlurmQueue | LocalCluster) -> bool:
    """Stop the jobs of an earlier start that was killed, so that no job runs twice; return True if there were any."""
    left = cluster.find_unfinished()
    if left:
        print("jobs of an earlier start are still in the queue: stopping them, then resuming", flush=True)
        cluster.terminate(left)
    while left and cluster.find_unfinished():
        time.sleep(1)
    return bool(left)


def check(settings: dict[str, Any]) -> None:
    """Refuse invalid launcher settings, and a machine without Slurm.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    check_settings(settings, CHECKS, "hydra.launcher.")
    if settings["cluster"] == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        how = "start the sweep on a machine of the cluster, or try it out with hydra.launcher.cluster=local"
        raise InputError(f"hydra/launcher=slurm: there is no Slurm on this machine (no sbatch, no srun): {how}")
