"""Summarize a sweep again from its jobs' folders: results.csv, the leaderboard and the figures.

    python -m src.compare outputs/sweeps/NAME
    python -m src.compare outputs/sweeps/NAME trust=mylab    # if it uses classes of your package mylab

A sweep does this by itself when it ends; this command is for one that was stopped or still runs.
"""

import sys
from pathlib import Path

if not __package__:  # started as python src/compare.py: put the project folder on sys.path
    sys.path[0] = str(Path(__file__).parent.parent)

from src.core.commands import OneLineParser, format_command
from src.storage.trust import TRUST_HELP, extract_trust


def main() -> None:
    parser = OneLineParser(prog=format_command("src.compare"), description="Summarize a sweep.", epilog=TRUST_HELP)
    parser.add_argument("folder", type=Path, help="the sweep's folder: outputs/sweeps/NAME")
    from src.cli.main import exit_on_error

    with exit_on_error():
        packages, rest = extract_trust(sys.argv[1:])
        errors = _summarize_sweep(parser.parse_args(rest).folder, packages)
    if errors:
        sys.exit("\n".join(f"error: {error}" for error in errors))


def _summarize_sweep(folder: Path, packages: tuple[str, ...]) -> list[str]:
    """Write and print a sweep's results, draw its figures and return the error messages.

    Args:
        folder: the sweep's, which may come from someone else and is not trusted.
        packages: packages other than this project's whose classes it may use.

    Returns:
        A line for each damaged file and for each figure that cannot be drawn.
    """
    from src.core.disk import StorageError
    from src.core.errors import InputError
    from src.storage.status import DAMAGED
    from src.sweeps.figures.callback import draw_figures, read_configured_figures
    from src.sweeps.store.hparams import write_hparams
    from src.sweeps.store.jobs import refuse_strays_outside_jobs
    from src.sweeps.store.leaderboard import print_leaderboards
    from src.sweeps.store.results import lock_results, write_results
    from src.sweeps.store.runs import read_runs

    refuse_strays_outside_jobs(folder)
    figures = read_configured_figures(folder, packages)
    with lock_results(folder):
        runs = read_runs(folder)
        table = write_results(folder, runs)
        write_hparams(folder, runs)
    print_leaderboards(folder, packages=packages, runs=runs)
    try:
        files, errors = draw_figures(folder, figures, packages, runs) if figures else ([], [])
    except StorageError:
        raise
    except InputError as error:  # no runs to draw
        files, errors = [], [str(error)]
    print("", table, *files, sep="\n")
    return [*(str(run.message) for run in runs if run.status == DAMAGED), *errors]


if __name__ == "__main__":
    main()
