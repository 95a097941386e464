"""The engine of ``hydra/launcher=local``: runs jobs in processes on this machine."""

import os
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

from src.core.checks import SECONDS, one_of, optional, require, whole
from src.core.errors import InputError
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.progress.monitor import Watch
from src.sweeps.store.jobs import Job
from src.sweeps.workers.pool import Pool, begin, starting, warm_up
from src.sweeps.workers.resources import Share, Wish, shares, tell
from src.sweeps.workers.worker import Task

CHECKS = {
    "jobs": optional(whole(1, 1024)),
    "jobs_per_gpu": whole(1, 1024),
    "time_limit": optional(SECONDS),
    "start_method": one_of(None, "forkserver", "spawn"),
}


class Local(NamedTuple):
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
        warm_up(starting(self.start_method))

    def run(self, sweep: Sweep, jobs: list[Job], watch: Watch) -> None:
        resources = self.shares(jobs)
        watch.at_once(len(resources))
        self.pool(resources, lambda own, share: sweep.order(own[0], share), watch).run([[job] for job in jobs])

    def shares(self, jobs: list[Job]) -> list[Share]:
        """Return the resources of each concurrent process, computed in a subprocess (it needs torch)."""
        threads = [count for job in jobs if (count := job.settings.get("threads"))]
        accelerators = {str(job.settings.get("trainer.accelerator")) for job in jobs}
        request = Wish(accelerators, max(threads, default=None), self.jobs, self.jobs_per_gpu)
        allocated: list[Share] = asked(starting(self.start_method), shares, request)
        return allocated

    def pool(self, parts: list[Share], task: Callable[[Sequence[Job], Share], Task], watch: Watch) -> Pool:
        """Create the pool that runs jobs in concurrent processes, with resources as in `parts`."""
        context = starting(self.start_method)
        return Pool(context, parts, self.time_limit, task, watch.started, watch.ended, watch.ticked)


def check(settings: dict[str, Any]) -> None:
    """Refuse invalid launcher settings.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    require(settings, CHECKS, "hydra.launcher.")


def asked(context: BaseContext, question: Callable[..., Any], *given: Any) -> Any:
    """Call a function in a subprocess, so that this process neither imports torch nor touches a GPU.

    Returns:
        What the function returns.

    Raises:
        InputError: if the function raises one, or the subprocess dies.
    """
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=tell, args=(question, given, dict(os.environ), sender))  # type: ignore[attr-defined]
    begin(context, process)
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        raise InputError("no process could be started for the jobs; what stopped it stands above") from None
    finally:
        process.join()
    if isinstance(result, InputError):
        raise result
    return result
