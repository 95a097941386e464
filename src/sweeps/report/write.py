"""Write the report of a sweep: ``report.html``, one self-contained page for the browser."""

from collections.abc import Callable
from pathlib import Path

from src.storage.files import write_text
from src.sweeps.report.page import make_tables, render_page
from src.sweeps.report.reading import read_sweeps
from src.sweeps.report.undrawn import draw_missing_figures, find_runs_without_figures
from src.sweeps.store.jobs import refuse_strays_outside_jobs
from src.sweeps.store.leaderboard import write_results

PAGE_FILE, LATEX_FILE = "report.html", "leaderboard.tex"


def write_report(
    folders: list[Path], draw: bool = False, packages: tuple[str, ...] = (), warn: Callable[[str], object] = len
) -> Path:
    """Write the report of one or several sweeps into the first one's folder.

    The sweeps need not have ended. Also writes ``results.csv`` of the first sweep and ``leaderboard.tex`` of all
    sweeps. The page names damaged files.

    Args:
        folders: the sweeps' folders.
        draw: first draw the missing figures that the page would show, which takes a second or two per run; otherwise
            the page shows the command that draws them.
        packages: packages outside this project whose classes the runs' configs may name when figures are drawn. The
            command on the page contains them, too.
        warn: is called with one line for each thing that could not be read or drawn. The page lists these lines, too.

    Returns:
        The path of the page.

    Raises:
        InputError: if a folder has no jobs in it, or a link next to its jobs leads out of it.
        StorageError: if the first folder cannot be written.
    """
    for folder in folders:
        refuse_strays_outside_jobs(folder)
    sweeps = read_sweeps(folders)
    if draw:
        draw_missing_figures(sweeps, packages)
    home = sweeps.folders[0]
    write_results(home)
    files = make_tables(sweeps)
    write_text(home / LATEX_FILE, files[LATEX_FILE])
    write_text(
        home / PAGE_FILE, render_page(sweeps, files, [] if draw else find_runs_without_figures(sweeps), packages)
    )
    for note in sweeps.warnings:
        warn(note)
    return home / PAGE_FILE
