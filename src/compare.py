"""Add up a sweep again, from its jobs' folders: results.csv, the table of the best, the pictures.

    python -m src.compare outputs/sweeps/NAME

That is done by itself when a sweep ends; this is for one that was stopped, or that goes on.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.compare", description="Add up a sweep again.")
    parser.add_argument("folder", type=Path, help="the sweep's folder: outputs/sweeps/NAME")
    folder = parser.parse_args().folder
    from src.cli import told_in_the_end

    with told_in_the_end():
        errors = compare(folder)
    if errors:
        sys.exit("\n".join(f"error: {each}" for each in errors))


def compare(folder: Path) -> list[str]:
    """Write a sweep's results, tell them and draw its pictures; returns what is damaged or cannot be drawn."""
    from src.core.storage import StorageError
    from src.errors import InputError
    from src.sweeps.drawing import configured, draw
    from src.sweeps.hparams import write_hparams
    from src.sweeps.jobs import find_damage
    from src.sweeps.results import leaderboard, write_results

    pictures = configured(folder)
    table = write_results(folder)
    write_hparams(folder)
    leaderboard(folder)
    try:
        files, errors = draw(folder, pictures) if pictures else ([], [])
    except StorageError:
        raise
    except InputError as error:  # there are no runs to draw
        files, errors = [], [str(error)]
    print("", table, *files, sep="\n")
    return [*find_damage(folder), *errors]


if __name__ == "__main__":
    main()
