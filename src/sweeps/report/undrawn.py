"""The missing figures of runs: find the runs whose figures the page would show, and draw them in worker processes."""

import os
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from threading import Thread

from src.core.formatting import format_count
from src.core.processes import CORES_VARIABLE, count_cores
from src.storage.schema import DamagedError
from src.sweeps.figures.callback import format_error
from src.sweeps.report.gallery import MAX_RUNS, find_chosen_folders, sort_best_first
from src.sweeps.report.reading import Sweeps
from src.sweeps.store.jobs import read_job
from src.sweeps.store.runs import Run
from src.sweeps.workers.pool import get_mp_context, silence_fd, start_fork_server
from src.sweeps.workers.worker import die_with_parent

# Prefixes of the callbacks that draw nothing.
NON_DRAWING_CALLBACKS = ("lightning.", "src.callbacks.early_stopping.", "src.callbacks.progress.")


def find_runs_without_figures(sweeps: Sweeps) -> list[Run]:
    """Return the runs without figures whose figures the page would show, the best first."""
    chosen = find_chosen_folders(sweeps)
    runs = sort_best_first(sweeps)
    shown = [*_select_runs_with_figures(runs), *_select_runs_with_figures(run for run in runs if run.folder in chosen)]
    return list({run.folder: run for run in shown if not _has_figures(run)}.values())


def _select_runs_with_figures(runs: Iterable[Run]) -> list[Run]:
    """Return the first ``MAX_RUNS`` runs that have figures or could have."""
    return list(islice((run for run in runs if _has_figures(run) or _can_draw(run)), MAX_RUNS))


def _has_figures(run: Run) -> bool:
    return any(run.folder.glob("figures/*.png"))


def _can_draw(run: Run) -> bool:
    """Return True if a run has finished and has a checkpoint and callbacks that draw."""
    if run.status != "finished" or not any(run.folder.glob("checkpoints/*.ckpt")):
        return False
    try:
        settings = read_job(run.folder).settings
    except DamagedError:  # it was damaged after the sweep was read
        return False
    callbacks = [str(settings[key]) for key in settings if key.startswith("callbacks.") and key.endswith("._target_")]
    return not all(name.startswith(NON_DRAWING_CALLBACKS) for name in callbacks)


def draw_missing_figures(sweeps: Sweeps, packages: tuple[str, ...]) -> None:
    """Draw the missing figures that the page would show, and print the progress; failures go to ``sweeps.notes``.

    Args:
        sweeps: the sweeps of the page.
        packages: further packages whose classes the runs' configs may name.
    """
    runs = find_runs_without_figures(sweeps)
    if not runs:
        return
    count = min(len(runs), count_cores())
    context, cores_each = get_mp_context(None), count_cores() // count
    start_fork_server(context)
    try:
        pool = ProcessPoolExecutor(count, context, _init_worker, (cores_each,))
    except OSError as error:  # its locks are in shared memory, which may be full
        sweeps.warnings.append(f"figures cannot be drawn: no process can be started ({error.strerror})")
        return
    try:
        with silence_fd(1), silence_fd(2):  # workers that are spawned inherit the silenced output
            futures = {pool.submit(_draw_run_figures, run.folder, packages): run for run in runs}
        _print_progress(0, len(runs))
        for done, future in enumerate(as_completed(futures), start=1):
            if reason := _get_failure(future):
                sweeps.warnings.append(f"{futures[future].folder}: its figures cannot be drawn: {reason}")
            _print_progress(done, len(runs))
    finally:
        pool.shutdown(cancel_futures=True)


def _init_worker(core_count: int) -> None:
    """Initialize a worker that draws: silence it, set its number of cores, and end it when its parent ends."""
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    os.environ[CORES_VARIABLE] = str(core_count)
    Thread(target=die_with_parent, daemon=True).start()


def _draw_run_figures(folder: Path, packages: tuple[str, ...]) -> str | None:
    """Draw a run's figures; return the error in one line if they cannot be drawn."""
    try:
        from src.training.redraw import draw_figures  # imports PyTorch, which only the workers need

        draw_figures(folder, packages)
    except Exception as error:  # the figures of other runs can still be drawn
        return format_error(error)
    return None


def _get_failure(future: "Future[str | None]") -> str | None:
    """Return the reason why a run's figures were not drawn, such as the death of the worker; ``None`` if they were."""
    error = future.exception()
    return future.result() if error is None else " ".join(str(error).split())


def _print_progress(done: int, count: int) -> None:
    """Print the progress: in a terminal, update a line; elsewhere, print one at the start and one at the end."""
    line = f"drawing the figures of {format_count(count, 'run')}: {done}/{count}"
    if sys.stderr.isatty():
        print(f"\r{line}", end="\n" if done == count else "", file=sys.stderr, flush=True)
    elif done in (0, count):
        print(line, file=sys.stderr, flush=True)
