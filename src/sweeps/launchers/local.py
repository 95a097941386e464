"""The engine of ``hydra/launcher=local``: jobs in processes of this machine."""

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
    """Runs jobs on this machine, each in a process of its own.

    Attributes:
        jobs: how many at once; ``None``: as many as the machine bears.
        jobs_per_gpu: how many share a GPU.
        time_limit: seconds per job; ``None``: no limit.
        start_method: "forkserver" or "spawn"; ``None``: what the system bears.
    """

    jobs: int | None
    jobs_per_gpu: int
    time_limit: float | None
    start_method: str | None

    def warm_up(self) -> None:
        """Let the imports begin, while the caller does something else."""
        warm_up(starting(self.start_method))

    def run(self, sweep: Sweep, jobs: list[Job], watch: Watch) -> None:
        parts = self.shares(jobs)
        watch.at_once(len(parts))
        self.pool(parts, lambda own, share: sweep.order(own[0], share), watch).run([[job] for job in jobs])

    def shares(self, jobs: list[Job]) -> list[Share]:
        """What each process at once gets of the machine, found out by a process of its own."""
        threads = [count for job in jobs if (count := job.settings.get("threads"))]
        accelerators = {str(job.settings.get("trainer.accelerator")) for job in jobs}
        wish = Wish(accelerators, max(threads, default=None), self.jobs, self.jobs_per_gpu)
        found: list[Share] = asked(starting(self.start_method), shares, wish)
        return found

    def pool(self, parts: list[Share], task: Callable[[Sequence[Job], Share], Task], watch: Watch) -> Pool:
        """What runs jobs in processes that share the machine."""
        context = starting(self.start_method)
        return Pool(context, parts, self.time_limit, task, watch.started, watch.ended, watch.ticked)


def check(settings: dict[str, Any]) -> None:
    """Refuse settings that no sweep can run with.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    require(settings, CHECKS, "hydra.launcher.")


def asked(context: BaseContext, question: Callable[..., Any], *given: Any) -> Any:
    """What a function says in a process of its own, so that this one imports no torch and touches no GPU."""
    answer, its_end = context.Pipe(duplex=False)
    process = context.Process(target=tell, args=(question, given, dict(os.environ), its_end))  # type: ignore[attr-defined]
    begin(context, process)
    its_end.close()
    try:
        found = answer.recv()
    except EOFError:
        raise InputError("no process could be started for the jobs; what stopped it stands above") from None
    finally:
        process.join()
    if isinstance(found, InputError):
        raise found
    return found
