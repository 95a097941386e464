"""The pictures that runs have left undrawn: whose the page would show, and having these drawn by other processes."""

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

WITHOUT_PICTURES = ("lightning.", "src.callbacks.early_stopping.", "src.callbacks.progress.")  # callbacks


def undrawn(sweeps: Sweeps) -> list[Run]:
    """The runs whose pictures the page would show if they had any, the best first."""
    chosen = chosen_folders(sweeps.runs)
    runs = best_first(sweeps.runs)
    shown = [*first_with_pictures(runs), *first_with_pictures(run for run in runs if run.folder in chosen)]
    return list({run.folder: run for run in shown if not has_pictures(run)}.values())


def first_with_pictures(runs: Iterable[Run]) -> list[Run]:
    """Those whose pictures the page has room for, of the runs that have some or could have."""
    return list(islice((run for run in runs if has_pictures(run) or could_have(run)), MOST_RUNS))


def has_pictures(run: Run) -> bool:
    return any(run.folder.glob("figures/*.png"))


def could_have(run: Run) -> bool:
    """Whether a run is finished and has weights, and callbacks that draw."""
    if run.status != "finished" or not any(run.folder.glob("checkpoints/*.ckpt")):
        return False
    try:
        settings = read_job(run.folder).settings
    except DamagedError:  # since it was read
        return False
    callbacks = [str(settings[key]) for key in settings if key.startswith("callbacks.") and key.endswith("._target_")]
    return not all(name.startswith(WITHOUT_PICTURES) for name in callbacks)


def draw_undrawn(sweeps: Sweeps, packages: tuple[str, ...]) -> None:
    """Have the pictures drawn that the page would show, and show how far that is; what fails is noted.

    Args:
        sweeps: whose.
        packages: those beside this project's whose classes the runs' configs may name.
    """
    runs = undrawn(sweeps)
    if not runs:
        return
    count = min(len(runs), cores())
    context, share = multiprocessing.get_context("spawn"), cores() // count
    try:
        pool = ProcessPoolExecutor(count, context, begin, (share,))
    except OSError as error:  # its locks lie in shared memory, which may be full
        sweeps.notes.append(f"pictures cannot be drawn: no process can be started ({error.strerror})")
        return
    try:
        with mute(1), mute(2):  # the processes that begin here
            drawings = {pool.submit(draw, run.folder, packages): run for run in runs}
        tell(0, len(runs))
        for done, drawing in enumerate(as_completed(drawings), start=1):
            if reason := failure(drawing):
                sweeps.notes.append(f"{drawings[drawing].folder}: its pictures cannot be drawn: {reason}")
            tell(done, len(runs))
    finally:
        pool.shutdown(cancel_futures=True)


def begin(share: int) -> None:
    """What a process that draws does first: it takes its share of the cores, and ends when its parent does."""
    os.environ[SHARE_OF_CORES] = str(share)
    Thread(target=end_with_the_parent, daemon=True).start()


def draw(folder: Path, packages: tuple[str, ...]) -> str | None:
    """Draw a run's pictures; what stood in the way, in one line."""
    try:
        from src.training.redraw import draw_figures  # with PyTorch, which only these processes need

        draw_figures(folder, packages)
    except Exception as error:  # the next run's pictures can be drawn all the same
        return why(error)
    return None


def failure(drawing: "Future[str | None]") -> str | None:
    """Why a run's pictures were not drawn; also where the process that was to do it has died."""
    error = drawing.exception()
    return drawing.result() if error is None else " ".join(str(error).split())


def tell(done: int, count: int) -> None:
    """How far it is: in a terminal a line that counts, elsewhere one as it begins and one as it ends."""
    line = f"drawing the pictures of {many(count, 'run')}: {done}/{count}"
    if sys.stderr.isatty():
        print(f"\r{line}", end="\n" if done == count else "", file=sys.stderr, flush=True)
    elif done in (0, count):
        print(line, file=sys.stderr, flush=True)
