"""Write the report of a sweep: one page, report.html in its folder, to read and to send.

    python -m src.report outputs/sweeps/NAME            # at any time, even while it runs
    python -m src.report outputs/sweeps/A outputs/sweeps/B   # one report on both, in A's folder
    python -m src.report outputs/sweeps/NAME format=pdf      # also figures/*.pdf for a paper; or format=svg
    python -m src.report outputs/sweeps/NAME trust=mylab     # if they use classes of your package mylab

It also writes results.csv and leaderboard.tex. Figures that the page shows and that the runs have not drawn are drawn
first.
"""

import sys
from pathlib import Path

if not __package__:  # started as python src/report.py: put the project folder on sys.path
    sys.path[0] = str(Path(__file__).parent.parent)

from src.core.commands import OneLineParser, format_command
from src.core.errors import InputError
from src.storage.trust import TRUST_HELP, extract_trust

FORMATS = ("pdf", "svg")
FORMAT_HELP = "format=pdf or format=svg: also write figures for a paper"  # for --help


def main() -> None:
    about = "Write the report of a sweep."
    parser = OneLineParser(prog=format_command("src.report"), description=about, epilog=f"{FORMAT_HELP}. {TRUST_HELP}")
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder", help="a sweep's folder: outputs/sweeps/NAME")
    from src.cli.main import exit_on_error

    with exit_on_error():
        packages, rest = extract_trust(sys.argv[1:])
        form, rest = _take_format(rest)
        folders = parser.parse_args(rest).folders
        from src.sweeps.report.write import load_sweeps, write_report
        from src.sweeps.store.hparams import write_hparams

        notes: list[str] = []
        sweeps = load_sweeps(folders)
        print(write_report(sweeps, draw=True, packages=packages, warn=notes.append))
        write_hparams(folders[0])
        if form:
            from src.sweeps.report.paper import write_figures  # imports matplotlib

            print(*write_figures(sweeps, form, packages, notes.append), sep="\n")
    if notes:
        sys.exit("\n".join(f"error: {note}" for note in notes))


def _take_format(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the file format of ``format=`` among the arguments (``None`` without it), and the other arguments.

    Raises:
        InputError: if it is given twice or there is no such format.
    """
    given = [argument for argument in arguments if argument.startswith("format=")]
    if len(given) > 1:
        raise InputError(f"format is given twice, {' and '.join(given)}: give it once")
    form = given[0].removeprefix("format=") if given else None
    if form is not None and form not in FORMATS:
        raise InputError(f"format={form}: it is one of {', '.join(FORMATS)}")
    return form, [argument for argument in arguments if argument not in given]


if __name__ == "__main__":
    main()
