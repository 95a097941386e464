"""The report of a sweep: ``report.html``, one page that needs nothing but a browser."""

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
    """Write the report of a sweep, or of several together, into the first one's folder; at any time.

    Beside it: ``results.csv`` of that sweep, ``leaderboard.tex`` of all. Damaged files are told in the page.

    Args:
        folders: those of the sweeps.
        draw: have the pictures drawn first that the page would show and that runs have left undrawn, which takes a
            second or two for each run; else the page tells how to.
        packages: those beside this project's whose classes the runs' configs may name where they are drawn; how the
            page tells to draw them has these, too.
        tell: is called with a line for each thing that could not be read or drawn; the page has these, too.

    Returns:
        The page.

    Raises:
        InputError: if one of the folders has no jobs in it, or something beside these that leads elsewhere.
        StorageError: if the first one cannot be written.
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
