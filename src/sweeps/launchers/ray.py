"""The engine of ``hydra/launcher=ray``: jobs on the machines of a Ray cluster.

Ray finds a free place for each job and begins it again elsewhere when its machine is lost; it is
handed nothing but which job to do. How the jobs fare, their folders tell.
"""

import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from src.cli.main import TERMINATED
from src.core.checks import SECONDS, Check, is_number, optional, require, whole
from src.core.errors import InputError
from src.sweeps.launchers.cluster import STOPPED, Errand, do, errand, follow
from src.sweeps.launchers.ray_connection import KNOCK, connected, knock
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.progress.monitor import Watch
from src.sweeps.store.jobs import Job

TICK = 0.25  # seconds between two looks at the clock
SILENT = 20.0  # seconds for a cluster's head to come back; after 60 Ray would end this process
ADDRESS = Check(lambda value: isinstance(value, str) and bool(re.fullmatch(r"[\w.:\[\]-]+:\d+", value)), "HOST:PORT")
GPUS = Check(
    lambda value: is_number(value) and 0 <= value <= 1024 and (value < 1 or value == int(value)),
    "a whole number from 0 to 1,024, or a fraction between 0 and 1",
)
CHECKS = {
    "address": optional(ADDRESS),
    "cpus_per_job": whole(1, 1024),
    "gpus_per_job": GPUS,
    "retries": whole(0, 1_000_000),
    "time_limit": optional(SECONDS),
}
LONELY = 300.0  # seconds to wait for a machine that takes the jobs, when the last such one was lost


class Ray(NamedTuple):
    """Runs jobs on a Ray cluster, each in a process of its own on one of its machines.

    Attributes:
        address: HOST:PORT of a running cluster; ``None``: one of its own on this machine.
        cpus_per_job: CPU cores of each job.
        gpus_per_job: GPUs of each job; a fraction shares one.
        retries: how often a job goes on elsewhere when its machine is lost.
        time_limit: seconds per job; ``None``: no limit.
    """

    address: str | None
    cpus_per_job: int
    gpus_per_job: float
    retries: int
    time_limit: float | None

    def warm_up(self) -> None:
        """Connect, so that what is wrong with the cluster is told before there are jobs."""
        Machines(self)

    def run(self, sweep: Sweep, jobs: list[Job], watch: Watch) -> None:
        """Run the jobs.

        Raises:
            InputError: if the cluster cannot be reached or has no machine for such jobs.
        """
        for job in jobs:
            if job.settings.get("trainer.accelerator") in ("gpu", "cuda") and not self.gpus_per_job:
                raise InputError("trainer=gpu needs GPUs: hydra.launcher.gpus_per_job=1, or a fraction to share one")
        machines = Machines(self)
        watch.at_once(machines.places())
        follow(machines, jobs, lambda job: errand(sweep, job, self.cpus_per_job, self.time_limit), watch)


def check(settings: dict[str, Any]) -> None:
    """Refuse settings that no sweep can run with.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    require(settings, CHECKS, "hydra.launcher.")


class Machines:
    """The machines of a Ray cluster, as `Cluster`; this process stays connected to it until it ends.

    Args:
        settings: which cluster, and what each job needs of it.

    Raises:
        InputError: if it cannot be reached, does not let us in or has no machine for such jobs.
    """

    def __init__(self, settings: Ray) -> None:
        self.ray, self.settings = connected(settings.address), settings
        self.address: str = self.ray.get_runtime_context().gcs_address
        self.knocked = self.heard = self.seen = time.monotonic()
        self.gone = False
        if not self.places():
            raise InputError(self.missing())

    def submit(self, errands: list[Errand]) -> list[Any]:
        needs = {"num_cpus": self.settings.cpus_per_job, "num_gpus": self.settings.gpus_per_job}
        # Ray would begin a new worker for each job with a GPU (max_calls=1); here it is the job's process that has it.
        task = self.ray.remote(max_retries=self.settings.retries, max_calls=0, **needs)(there)
        return [task.remote(each) for each in errands]

    def over(self, tasks: list[Any]) -> list[Any]:
        if self.gone:
            return tasks
        try:
            ended: list[Any] = self.ray.wait(tasks, num_returns=1, timeout=TICK)[0]
        except SystemExit:  # on SIGTERM; Ray makes a 1 of any status
            sys.exit(TERMINATED)
        if time.monotonic() > self.knocked + KNOCK:
            self.look()
        return ended

    def look(self) -> None:
        """See whether the cluster is there, and takes the jobs.

        Raises:
            InputError: if it has not for long. Ray itself would end this process, and wait for ever.
        """
        self.knocked = now = time.monotonic()
        try:
            knock(self.address)
            self.heard = now
        except InputError:
            self.gone = now > self.heard + SILENT
            if self.gone:
                raise
            return
        if self.places():
            self.seen = now
        elif now > self.seen + LONELY:
            self.seen = now  # who is told has to end the tasks yet
            raise InputError(self.missing())

    def outcome(self, task: Any) -> dict[str, Any]:
        errors = self.ray.exceptions
        try:
            told: dict[str, Any] = self.ray.get(task)
        except errors.TaskCancelledError:
            return STOPPED
        except errors.RayTaskError as error:
            return ended("failed", "error", in_words(error.cause))
        except errors.OutOfMemoryError:
            return ended("failed", "out of memory", "ended by Ray, as its machine's memory ran out")
        except errors.RayError:
            times = "once" if not self.settings.retries else f"{self.settings.retries + 1} times"
            return ended("failed", "lost", f"its machine, or Ray's worker there, was lost {times}")
        return told

    def cancel(self, tasks: list[Any]) -> None:
        for task in tasks if not self.gone else []:
            self.ray.cancel(task)

    def places(self) -> int:
        """How many jobs the machines that are there can do at once."""

        def on(machine: dict[str, float]) -> int:
            cpus, gpus = self.settings.cpus_per_job, self.settings.gpus_per_job
            by_gpu = int(machine.get("GPU", 0) / gpus + 1e-6) if gpus else None
            by_cpu = int(machine.get("CPU", 0) / cpus)
            return by_cpu if by_gpu is None else min(by_cpu, by_gpu)

        return sum(on(machine) for machine in self.resources())

    def resources(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def missing(self) -> str:
        """That no machine takes such jobs, in words."""
        cpus, gpus, address = self.settings.cpus_per_job, self.settings.gpus_per_job, self.settings.address
        has = {f"{each.get('CPU', 0):g} CPUs and {each.get('GPU', 0):g} GPUs" for each in self.resources()}
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        return (
            f"hydra.launcher.cpus_per_job={cpus} gpus_per_job={gpus:g}: no machine of {where} has as much; "
            f"there {'is one' if len(has) == 1 else 'are some'} with {', '.join(sorted(has)) or 'nothing'}"
        )


def there(errand: Errand) -> dict[str, Any]:
    """What Ray has a machine do: a job that sees the GPUs it was given and no others."""
    import ray

    gpus = ",".join(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))
    environment = {**errand.order.environment, "CUDA_VISIBLE_DEVICES": gpus}
    return do(errand._replace(order=errand.order._replace(environment=environment)))


def ended(status: str, reason: str, message: str) -> dict[str, Any]:
    return {"status": status, "reason": reason, "message": message}


def in_words(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, InputError):
        return str(error)
    first = next(iter(str(error).splitlines()), "")
    if "No module named 'src'" in first:
        return (
            f"a machine of the cluster has no folder {Path.cwd()}: all must share the one that the sweep is started in"
        )
    return f"{type(error).__name__}: {first}"
