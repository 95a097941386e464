"""Add up a sweep again, from its jobs' folders: results.csv, the table of the best, the pictures.

    python -m src.compare outputs/sweeps/NAME
    python -m src.compare outputs/sweeps/NAME trust=mylab    # it names classes of a package of one's own

That is done by itself when a sweep ends; this is for one that was stopped, or that goes on.
"""

import sys
from pathlib import Path

if not __package__:  # python src/compare.py, where Python would look for src beside this file
    sys.path[0] = str(Path(__file__).parent.parent)

from src.core.commands import spell_command
from src.core.parser import OneLineParser
from src.storage.trust import TRUST, take_trust


def main() -> None:
    parser = OneLineParser(prog=spell_command("src.compare"), description="Add up a sweep again.", epilog=TRUST)
    parser.add_argument("folder", type=Path, help="the sweep's folder: outputs/sweeps/NAME")
    from src.cli.main import told_in_the_end

    with told_in_the_end():
        packages, rest = take_trust(sys.argv[1:])
        errors = compare(parser.parse_args(rest).folder, packages)
    if errors:
        sys.exit("\n".join(f"error: {each}" for each in errors))


def compare(folder: Path, packages: tuple[str, ...]) -> list[str]:
    """Write a sweep's results, tell them and draw its pictures; returns what is damaged or cannot be drawn.

    Args:
        folder: the sweep's, which may be a stranger's.
        packages: those beside this project's whose classes it may name.
    """
    from src.core.disk import StorageError
    from src.core.errors import InputError
    from src.sweeps.figures.callback import configured, draw
    from src.sweeps.store.hparams import write_hparams
    from src.sweeps.store.jobs import find_damage, refuse_strays_beside_jobs
    from src.sweeps.store.leaderboard import leaderboard, write_results

    refuse_strays_beside_jobs(folder)
    pictures = configured(folder, packages)
    table = write_results(folder)
    write_hparams(folder)
    leaderboard(folder, packages=packages)
    try:
        files, errors = draw(folder, pictures, packages) if pictures else ([], [])
    except StorageError:
        raise
    except InputError as error:  # there are no runs to draw
        files, errors = [], [str(error)]
    print("", table, *files, sep="\n")
    return [*find_damage(folder), *errors]


if __name__ == "__main__":
    main()
