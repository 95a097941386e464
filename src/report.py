"""Write the report of a sweep: one page, report.html in its folder, to look at and to send.

    python -m src.report outputs/sweeps/NAME            # at any time, also while it runs
    python -m src.report outputs/sweeps/A outputs/sweeps/B   # both together, in A's folder
    python -m src.report outputs/sweeps/NAME trust=mylab     # they name classes of a package of one's own

Beside it lie results.csv and leaderboard.tex. Pictures that the page would show and that runs have left undrawn are
drawn first.
"""

import sys
from pathlib import Path

if not __package__:  # python src/report.py, where Python would look for src beside this file
    sys.path[0] = str(Path(__file__).parent.parent)

import argparse

from src.core.trust import TRUST, take_trust


def main() -> None:
    about = "Write the report of a sweep."
    parser = argparse.ArgumentParser(prog="python -m src.report", description=about, epilog=TRUST)
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder", help="a sweep's folder: outputs/sweeps/NAME")
    from src.cli import told_in_the_end

    with told_in_the_end():
        packages, rest = take_trust(sys.argv[1:])
        folders = parser.parse_args(rest).folders
        from src.sweeps.hparams import write_hparams
        from src.sweeps.report import report

        notes: list[str] = []
        print(report(folders, draw=True, packages=packages, tell=notes.append))
        write_hparams(folders[0])
    if notes:
        sys.exit("\n".join(f"error: {note}" for note in notes))


if __name__ == "__main__":
    main()
