"""The missing figures of runs: find the runs whose figures the page would show, and draw them in worker processes."""

import multiprocessing
import os
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from threading import Thread

from src.core.processes import SHARE_OF_CORES, cores
from src.storage.schema import DamagedError
from src.sweeps.figures.callback import why
from src.sweeps.report.gallery import MOST_RUNS, best_first, chosen_folders
from src.sweeps.report.reading import Sweeps
from src.sweeps.store.jobs import read_job
from src.sweeps.store.leaderboard import many
from src.sweeps.store.runs import Run
from src.sweeps.workers.pool import mute
from src.sweeps.workers.worker import end_with_the_parent

# Prefixes of the callbacks that draw nothing.
WITHOUT_PICTURES = ("lightning.", "src.callbacks.early_stopping.", "src.callbacks.progress.")


def undrawn(sweeps: Sweeps) -> list[Run]:
    """Return the runs without figures whose figures the page would show, the best first."""
    chosen = chosen_folders(sweeps.runs)
    runs = best_first(sweeps.runs)
    shown = [*first_with_pictures(runs), *first_with_pictures(run for run in runs if run.folder in chosen)]
    return list({run.folder: run for run in shown if not has_pictures(run)}.values())


def first_with_pictures(runs: Iterable[Run]) -> list[Run]:
    """Return the first ``MOST_RUNS`` runs that have figures or could have."""
    return list(islice((run for run in runs if has_pictures(run) or could_have(run)), MOST_RUNS))


def has_pictures(run: Run) -> bool:
    return any(run.folder.glob("figures/*.png"))


def could_have(run: Run) -> bool:
    """Return True if a run has finished and has a checkpoint and callbacks that draw."""
    if run.status != "finished" or not any(run.folder.glob("checkpoints/*.ckpt")):
        return False
    try:
        settings = read_job(run.folder).settings
    except DamagedError:  # it was damaged after the sweep was read
        return False
    callbacks = [str(settings[key]) for key in settings if key.startswith("callbacks.") and key.endswith("._target_")]
    return not all(name.startswith(WITHOUT_PICTURES) for name in callbacks)


def draw_undrawn(sweeps: Sweeps, packages: tuple[str, ...]) -> None:
    """Draw the missing figures that the page would show, and print the progress; failures go to ``sweeps.notes``.

    Args:
        sweeps: the sweeps of the page.
        packages: further packages whose classes the runs' configs may name.
    """
    runs = undrawn(sweeps)
    if not runs:
        return
    count = min(len(runs), cores())
    context, cores_each = multiprocessing.get_context("spawn"), cores() // count
    try:
        pool = ProcessPoolExecutor(count, context, begin, (cores_each,))
    except OSError as error:  # its locks are in shared memory, which may be full
        sweeps.notes.append(f"pictures cannot be drawn: no process can be started ({error.strerror})")
        return
    try:
        with mute(1), mute(2):  # the workers that start here inherit the silenced output
            futures = {pool.submit(draw, run.folder, packages): run for run in runs}
        tell(0, len(runs))
        for done, future in enumerate(as_completed(futures), start=1):
            if reason := failure(future):
                sweeps.notes.append(f"{futures[future].folder}: its pictures cannot be drawn: {reason}")
            tell(done, len(runs))
    finally:
        pool.shutdown(cancel_futures=True)


def begin(share: int) -> None:
    """Initialize a worker that draws: set its number of cores, and end it when its parent ends."""
    os.environ[SHARE_OF_CORES] = str(share)
    Thread(target=end_with_the_parent, daemon=True).start()


def draw(folder: Path, packages: tuple[str, ...]) -> str | None:
    """Draw a run's figures; return the error in one line if they cannot be drawn."""
    try:
        from src.training.redraw import draw_figures  # imports PyTorch, which only the workers need

        draw_figures(folder, packages)
    except Exception as error:  # the figures of other runs can still be drawn
        return why(error)
    return None


def failure(drawing: "Future[str | None]") -> str | None:
    """Return the reason why a run's figures were not drawn, such as the death of the worker; ``None`` if they were."""
    error = drawing.exception()
    return drawing.result() if error is None else " ".join(str(error).split())


def tell(done: int, count: int) -> None:
    """Print the progress: in a terminal, update a line; elsewhere, print one at the start and one at the end."""
    line = f"drawing the pictures of {many(count, 'run')}: {done}/{count}"
    if sys.stderr.isatty():
        print(f"\r{line}", end="\n" if done == count else "", file=sys.stderr, flush=True)
    elif done in (0, count):
        print(line, file=sys.stderr, flush=True)
