"""The engine of ``hydra/launcher=local``: runs jobs in processes on this machine."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

from src.core.checks import SECONDS, allow_integer, allow_null_or, allow_one_of, check_settings
from src.core.errors import InputError
from src.storage.status import Status
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.progress.monitor import SweepMonitor
from src.sweeps.store.jobs import Job
from src.sweeps.workers.pool import Pool, get_mp_context, start_fork_server, start_process
from src.sweeps.workers.resources import ResourceRequest, Resources, allocate_resources, send_result
from src.sweeps.workers.worker import Spec

CHECKS = {
    "jobs": allow_null_or(allow_integer(1, 1024)),
    "jobs_per_gpu": allow_integer(1, 1024),
    "time_limit": allow_null_or(SECONDS),
    "start_method": allow_one_of(None, "forkserver", "spawn"),
}


class LocalEngine(NamedTuple):
    """Runs jobs on this machine, each in a separate process.

    Attributes:
        jobs: the number of jobs at once; ``None``: as many as fit.
        jobs_per_gpu: the number of jobs on each GPU.
        time_limit: seconds per job; ``None``: no limit.
        start_method: "forkserver" or "spawn"; ``None``: the default of the operating system.
    """

    jobs: int | None
    jobs_per_gpu: int
    time_limit: float | None
    start_method: str | None

    def warm_up(self) -> None:
        """Start the imports in the background."""
        start_fork_server(get_mp_context(self.start_method))

    def run(self, sweep: Sweep, jobs: list[Job], watch: SweepMonitor) -> None:
        resources = self.compute_resources(jobs)
        watch.set_parallel_jobs(len(resources))
        self.make_pool(resources, lambda own, share: sweep.make_spec(own[0], share), watch).run([[job] for job in jobs])

    def run_stream(
        self,
        sweep: Sweep,
        jobs: Iterator[Job | None],
        watch: SweepMonitor,
        on_end: Callable[[Job, Status], None],
    ) -> None:
        """Run jobs that are drawn one by one when a process is free; ``None``: none before another has ended.

        ``on_end`` is called with each job whose process has ended, and its status, before the next one is drawn.
        """

        def handle_end(job: Job, status: Status) -> None:
            watch.record_end(job, status)
            on_end(job, status)

        if first := next(jobs, None):
            resources = self.compute_resources([first])
            watch.set_parallel_jobs(len(resources))
            pool = self.make_pool(resources, lambda own, share: sweep.make_spec(own[0], share), watch)
            pool.on_end = handle_end
            pool.run([job] if job else [] for job in chain([first], jobs))

    def compute_resources(self, jobs: list[Job]) -> list[Resources]:
        """Return the resources of each concurrent process, computed in a subprocess (it needs torch)."""
        threads = [count for job in jobs if (count := job.settings.get("threads"))]
        accelerators = {str(job.settings.get("trainer.accelerator")) for job in jobs}
        request = ResourceRequest(accelerators, max(threads, default=None), self.jobs, self.jobs_per_gpu)
        allocated: list[Resources] = call_in_subprocess(get_mp_context(self.start_method), allocate_resources, request)
        return allocated

    def make_pool(
        self, resources: list[Resources], make_spec: Callable[[Sequence[Job], Resources], Spec], watch: SweepMonitor
    ) -> Pool:
        """Create the pool that runs jobs in concurrent processes, with resources as in `resources`."""
        context = get_mp_context(self.start_method)
        return Pool(context, resources, self.time_limit, make_spec, watch.record_start, watch.record_end, watch.update)


def check(settings: dict[str, Any]) -> None:
    """Refuse invalid launcher settings.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    check_settings(settings, CHECKS, "hydra.launcher.")


def call_in_subprocess(context: BaseContext, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a subprocess, so that this process neither imports torch nor touches a GPU.

    Returns:
        What the function returns.

    Raises:
        InputError: if the function raises one, or the subprocess dies.
    """
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_result, args=(function, args, dict(os.environ), sender))  # type: ignore[attr-defined]
    start_process(context, process)
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        raise InputError("no process could be started for the jobs; the error is printed above") from None
    finally:
        process.join()
    if isinstance(result, InputError):
        raise result
    return result
