"""Write the report of a sweep: ``report.html``, one self-contained page for the browser."""

from collections.abc import Callable
from pathlib import Path

from src.storage.files import write_text
from src.sweeps.report.page import make_tables, render_page
from src.sweeps.report.reading import Sweeps, read_sweeps
from src.sweeps.report.undrawn import draw_missing_figures, find_runs_without_figures
from src.sweeps.store.jobs import refuse_strays_outside_jobs
from src.sweeps.store.results import lock_results, write_results

PAGE_FILE, LATEX_FILE = "report.html", "leaderboard.tex"


def load_sweeps(folders: list[Path]) -> Sweeps:
    """Read sweeps for a report, and write ``results.csv`` of the first.

    Raises:
        InputError: if a folder has no jobs in it, or a link next to its jobs leads out of it.
    """
    for folder in folders:
        refuse_strays_outside_jobs(folder)
    with lock_results(folders[0]):
        sweeps = read_sweeps(folders)
        write_results(folders[0], sweeps.get_own_runs(folders[0]))
    return sweeps


def write_report(
    sweeps: Sweeps, draw: bool = False, packages: tuple[str, ...] = (), warn: Callable[[str], object] = len
) -> Path:
    """Write the report of one or several sweeps, which need not have ended, into the first one's folder.

    Also writes ``leaderboard.tex``. The page names damaged files.

    Args:
        sweeps: the sweeps.
        draw: first draw the missing figures that the page would show, which takes a second or two per run; otherwise
            the page shows the command that draws them.
        packages: packages outside this project whose classes the runs' configs may name when figures are drawn. The
            command on the page contains them, too.
        warn: is called with one line for each thing that could not be read or drawn. The page lists these lines, too.

    Returns:
        The path of the page.

    Raises:
        StorageError: if the first folder cannot be written.
    """
    if draw:
        draw_missing_figures(sweeps, packages)
    home = sweeps.folders[0]
    files = make_tables(sweeps)
    write_text(home / LATEX_FILE, files[LATEX_FILE])
    write_text(
        home / PAGE_FILE, render_page(sweeps, files, [] if draw else find_runs_without_figures(sweeps), packages)
    )
    for note in sweeps.warnings:
        warn(note)
    return home / PAGE_FILE
