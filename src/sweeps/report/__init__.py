"""Write the report of a sweep: ``report.html``, one self-contained page for the browser."""

from collections.abc import Callable
from pathlib import Path

from src.storage.files import write_text
from src.sweeps.report.page import page, tables_to_take
from src.sweeps.report.reading import read_sweeps
from src.sweeps.report.undrawn import draw_undrawn, undrawn
from src.sweeps.store.jobs import refuse_strays_beside_jobs
from src.sweeps.store.leaderboard import write_results

PAGE, LATEX = "report.html", "leaderboard.tex"


def report(
    folders: list[Path], draw: bool = False, packages: tuple[str, ...] = (), tell: Callable[[str], object] = len
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
        tell: is called with one line for each thing that could not be read or drawn. The page lists these lines, too.

    Returns:
        The path of the page.

    Raises:
        InputError: if a folder has no jobs in it, or a link next to its jobs leads out of it.
        StorageError: if the first folder cannot be written.
    """
    for folder in folders:
        refuse_strays_beside_jobs(folder)
    sweeps = read_sweeps(folders)
    if draw:
        draw_undrawn(sweeps, packages)
    home = sweeps.folders[0]
    write_results(home)
    files = tables_to_take(sweeps)
    write_text(home / LATEX, files[LATEX])
    write_text(home / PAGE, page(sweeps, files, [] if draw else undrawn(sweeps), packages))
    for note in sweeps.notes:
        tell(note)
    return home / PAGE
