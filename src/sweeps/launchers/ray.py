"""The engine of ``hydra/launcher=ray``: runs jobs on the machines of a Ray cluster.

Ray schedules each job on a machine with free resources and restarts it on another one if the machine is lost. Ray only
gets the spec of each job; the jobs' statuses are read from their folders.
"""

import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from src.core.checks import SECONDS, Check, allow_integer, allow_null_or, check_settings, is_number
from src.core.errors import TERMINATED, InputError
from src.storage.status import Status, make_failed_status
from src.sweeps.launchers.cluster import STOPPED_STATUS, RemoteJob, make_remote_job, run_on_cluster, run_remote_job
from src.sweeps.launchers.ray_connection import CONNECT_TIMEOUT, check_reachable, init_ray
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.progress.monitor import SweepMonitor
from src.sweeps.store.jobs import Job

TICK_SECONDS = 0.25  # seconds between two polls
HEAD_TIMEOUT = (
    20.0  # seconds without an answer until a cluster's head counts as lost; after 60 Ray would end this process
)
ADDRESS = Check(lambda value: isinstance(value, str) and bool(re.fullmatch(r"[\w.:\[\]-]+:\d+", value)), "HOST:PORT")
GPUS = Check(
    lambda value: is_number(value) and 0 <= value <= 1024 and (value < 1 or value == int(value)),
    "a whole number from 0 to 1,024, or a fraction between 0 and 1",
)
CHECKS = {
    "address": allow_null_or(ADDRESS),
    "cpus_per_job": allow_integer(1, 1024),
    "gpus_per_job": GPUS,
    "retries": allow_integer(0, 1_000_000),
    "time_limit": allow_null_or(SECONDS),
}
MACHINE_TIMEOUT = 300.0  # seconds to wait for a machine that fits the jobs, after the last such one was lost


class RayEngine(NamedTuple):
    """Runs jobs on a Ray cluster, each in a separate process on one of its machines.

    Attributes:
        address: HOST:PORT of a running cluster; ``None``: start a local cluster on this machine.
        cpus_per_job: CPU cores of each job.
        gpus_per_job: GPUs of each job; with a fraction, jobs share a GPU.
        retries: the number of times that a job is resumed on another machine after its machine was lost.
        time_limit: seconds per job; ``None``: no limit.
    """

    address: str | None
    cpus_per_job: int
    gpus_per_job: float
    retries: int
    time_limit: float | None

    def warm_up(self) -> None:
        """Connect to the cluster, so that an error is reported before the jobs are composed."""
        RayCluster(self)

    def run(self, sweep: Sweep, jobs: list[Job], watch: SweepMonitor) -> None:
        """Run the jobs on the cluster.

        Raises:
            InputError: if the cluster cannot be reached or has no machine that fits the jobs.
        """
        for job in jobs:
            if job.settings.get("trainer.accelerator") in ("gpu", "cuda") and not self.gpus_per_job:
                raise InputError("trainer=gpu needs GPUs: hydra.launcher.gpus_per_job=1, or a fraction to share one")
        machines = RayCluster(self)
        watch.set_parallel_jobs(machines.count_slots())
        run_on_cluster(
            machines, jobs, lambda job: make_remote_job(sweep, job, self.cpus_per_job, self.time_limit), watch
        )


def check(settings: dict[str, Any]) -> None:
    """Refuse invalid launcher settings.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    check_settings(settings, CHECKS, "hydra.launcher.")


class RayCluster:
    """A Ray cluster, as a `Cluster`; this process stays connected to it until it ends.

    Args:
        settings: the launcher's settings: the cluster's address, and the resources of each job.

    Raises:
        InputError: if the cluster cannot be reached, refuses the connection or has no machine that fits the jobs.
    """

    def __init__(self, settings: RayEngine) -> None:
        self.ray, self.settings = init_ray(settings.address), settings
        self.address: str = self.ray.get_runtime_context().gcs_address
        self.last_check = self.last_answer = self.last_fit = time.monotonic()
        self.is_lost = False
        if not self.count_slots():
            raise InputError(self.describe_missing_machine())

    def submit(self, remote_jobs: list[RemoteJob]) -> list[Any]:
        needs = {"num_cpus": self.settings.cpus_per_job, "num_gpus": self.settings.gpus_per_job}
        # For tasks with a GPU, Ray's default is a new worker per task (max_calls=1), which frees the GPU. Here a
        # separate process uses the GPU, so that workers can be reused.
        task = self.ray.remote(max_retries=self.settings.retries, max_calls=0, **needs)(_run_ray_task)
        return [task.remote(remote_job) for remote_job in remote_jobs]

    def poll(self, tasks: list[Any]) -> list[Any]:
        if self.is_lost:
            return tasks
        try:
            completed: list[Any] = self.ray.wait(tasks, num_returns=1, timeout=TICK_SECONDS)[0]
        except SystemExit:  # on SIGTERM; Ray turns any exit code into 1
            sys.exit(TERMINATED)
        if time.monotonic() > self.last_check + CONNECT_TIMEOUT:
            self.check_cluster()
        return completed

    def check_cluster(self) -> None:
        """Check that the cluster answers and has a machine that fits the jobs.

        Raises:
            InputError: if it has not answered for `HEAD_TIMEOUT` seconds (Ray itself would end this process), or has
                had no such machine for `MACHINE_TIMEOUT` seconds (Ray itself would wait for ever).
        """
        self.last_check = now = time.monotonic()
        try:
            check_reachable(self.address)
            self.last_answer = now
        except InputError:
            self.is_lost = now > self.last_answer + HEAD_TIMEOUT
            if self.is_lost:
                raise
            return
        if self.count_slots():
            self.last_fit = now
        elif now > self.last_fit + MACHINE_TIMEOUT:
            self.last_fit = now  # do not raise again while the caller stops the remaining tasks
            raise InputError(self.describe_missing_machine())

    def get_status(self, task: Any) -> Status:
        errors = self.ray.exceptions
        try:
            status: Status = self.ray.get(task)
        except errors.TaskCancelledError:
            return STOPPED_STATUS
        except errors.RayTaskError as error:
            return make_failed_status("error", _format_error(error.cause))
        except errors.OutOfMemoryError:
            return make_failed_status("out of memory", "killed by Ray because its machine ran out of memory")
        except errors.RayError:
            times = "once" if not self.settings.retries else f"{self.settings.retries + 1} times"
            return make_failed_status("lost", f"its machine, or Ray's worker there, was lost {times}")
        return status

    def cancel(self, tasks: list[Any]) -> None:
        for task in tasks if not self.is_lost else []:
            self.ray.cancel(task)

    def count_slots(self) -> int:
        """Return the number of jobs that fit on the cluster's machines at once."""

        def count_on(machine: dict[str, float]) -> int:
            cpus, gpus = self.settings.cpus_per_job, self.settings.gpus_per_job
            by_gpu = int(machine.get("GPU", 0) / gpus + 1e-6) if gpus else None
            by_cpu = int(machine.get("CPU", 0) / cpus)
            return by_cpu if by_gpu is None else min(by_cpu, by_gpu)

        return sum(count_on(machine) for machine in self.get_resources())

    def get_resources(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def describe_missing_machine(self) -> str:
        """Return the error message for a cluster with no machine that fits the jobs."""
        cpus, gpus, address = self.settings.cpus_per_job, self.settings.gpus_per_job, self.settings.address
        has = {f"{machine.get('CPU', 0):g} CPUs and {machine.get('GPU', 0):g} GPUs" for machine in self.get_resources()}
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        return (
            f"hydra.launcher.cpus_per_job={cpus} gpus_per_job={gpus:g}: no machine of {where} has that much; "
            f"available: {', '.join(sorted(has)) or 'nothing'}"
        )


def _run_ray_task(remote_job: RemoteJob) -> Status:
    """Run a job as a Ray task, with only the GPUs visible that Ray has assigned to it."""
    import ray

    gpus = ",".join(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))
    environment = {**remote_job.spec.environment, "CUDA_VISIBLE_DEVICES": gpus}
    return run_remote_job(remote_job._replace(spec=remote_job.spec._replace(environment=environment)))


def _format_error(error: BaseException) -> str:
    """Return an error as one line."""
    if isinstance(error, InputError):
        return str(error)
    first = next(iter(str(error).splitlines()), "")
    if "No module named 'src'" in first:
        return (
            f"a machine of the cluster has no folder {Path.cwd()}: all must share the one that the sweep is started in"
        )
    return f"{type(error).__name__}: {first}"
