"""Repeat a finished run from its own record, and say whether it comes to the same, to the last digit.

    python -m src.repeat run=outputs/runs/NAME                    # into a new folder of outputs/runs
    python -m src.repeat run=outputs/sweeps/NAME/JOB out=again    # a job of a sweep, into the folder again
    python -m src.repeat run=outputs/runs/NAME trust=mylab        # if it uses classes of your package mylab
    python -m src.repeat run=outputs/sweeps/NAME checklist=true   # repeats nothing: a checklist for authors


The repetition has the run's settings, seed and number of threads. The status is 0 if all metrics agree to the last
digit, 3 if they do not, and 1 after an error. The checklist is of a run or a sweep, filled in from its folder.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # started as python src/repeat.py: put the project folder on sys.path
    sys.path[0] = str(Path(__file__).parent.parent)

from src.core.commands import OneLineParser, format_command
from src.core.errors import InputError
from src.storage.trust import TRUST_HELP, extract_trust

if TYPE_CHECKING:
    from src.training.repeat import Difference, Repetition

DIFFERENT = 3  # exit status if a metric differs
OWN_SETTINGS = ("run", "out", "checklist")
# Settings of the run that may be given: where its files are here, and what cannot change its settings.
RUN_SETTINGS = (
    *("paths.data", "data.root", "data.file", "data.test_file", "ckpt_path", "model.weights"),
    *("threads", "trainer.accelerator", "data_on_device"),
)
SETTINGS_HELP = "run=FOLDER, and perhaps out=FOLDER (the new one), or checklist=true (repeat nothing)"


def main() -> None:
    about = "Repeat a finished run and compare the two. Status 0: identical; 3: metrics differ; 1: an error."
    more = f"Where its files are elsewhere here, or for another device: {', '.join(RUN_SETTINGS)}. {TRUST_HELP}"
    parser = OneLineParser(prog=format_command("src.repeat"), description=about, epilog=more)
    parser.add_argument("settings", nargs="+", metavar="setting", help=SETTINGS_HELP)
    from src.cli.main import exit_on_error

    with exit_on_error():
        packages, rest = extract_trust(sys.argv[1:])
        given = _read_settings(parser.parse_args(rest).settings)
        folder, out, is_checklist = _take_folder(given, "run"), _take_folder(given, "out"), _take_checklist(given)
        if folder is None:
            raise InputError("give the run to repeat: run=outputs/runs/NAME")
        if is_checklist:
            _print_checklist(folder, out is not None or bool(given))
            return
        from src.training.repeat import repeat_run

        found = repeat_run(folder, packages, out, given)
        print(f"\n{describe_repetition(folder, found)}")
    sys.exit(0 if found.is_identical else DIFFERENT)


def _read_settings(arguments: list[str]) -> dict[str, Any]:
    """Return the settings among a command's arguments.

    Raises:
        InputError: if one is not a setting of this command.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from src.cli.overrides import prepare_arguments

    if words := [each for each in arguments if "=" not in each]:
        raise InputError(f"{words[0]}: a setting is typed NAME=VALUE; did you mean run={words[0]}?")
    parser, given = OverridesParser.create(), dict[str, Any]()
    for override in map(parser.parse_override, prepare_arguments(arguments)):
        name, value = override.key_or_group, override.value()
        if name not in (*OWN_SETTINGS, *RUN_SETTINGS):
            known = ", ".join((*OWN_SETTINGS, "trust", *RUN_SETTINGS))
            raise InputError(f"{name}: a run is repeated with its own settings; only these can be given: {known}")
        given[name] = value
    return given


def _take_folder(given: dict[str, Any], name: str) -> Path | None:
    """Remove the setting that names a folder from the given ones, and return the folder."""
    from src.core.checks import PATH, describe_invalid

    if (value := given.pop(name, None)) is None:
        return None
    if not PATH.allows(value):
        raise InputError(describe_invalid(name, value, PATH))
    return Path(value).expanduser()


def _take_checklist(given: dict[str, Any]) -> bool:
    """Remove ``checklist=`` from the given settings, and return its value.

    Raises:
        InputError: if it is neither true nor false.
    """
    from src.core.checks import BOOLEAN, describe_invalid

    if not BOOLEAN.allows(value := given.pop("checklist", False)):
        raise InputError(describe_invalid("checklist", value, BOOLEAN))
    return bool(value)


def _print_checklist(folder: Path, has_more: bool) -> None:
    if has_more:
        raise InputError("checklist=true repeats nothing: give run=FOLDER alone with it")
    from src.sweeps.checklist.write import build_checklist

    print(build_checklist(folder), end="")


def describe_repetition(folder: Path, found: "Repetition") -> str:
    """Return whether a run and its repetition agree, and where not, how much they differ and why that may be."""
    from src.core.formatting import format_count, to_relative_path

    compared = f"all {found.metrics} values of metrics.json and the metrics of {format_count(found.epochs, 'epoch')}"
    if found.is_identical:
        lines = [f"identical: {compared} agree with {folder} to the last digit"]
    else:
        parts = [f"{len(found.differences)} of {found.metrics} values of metrics.json"] if found.differences else []
        parts += [f"the metrics from epoch {found.first_epoch} on"] if found.first_epoch is not None else []
        lines = [
            f"different: {' and '.join(parts)} do not agree with {folder}",
            *map(_format_difference, found.differences),
        ]
    if found.changes:
        lines += ["not as it was, or not known:", *(f"  {line}" for line in found.changes)]
    elif not found.is_identical:
        lines.append("nothing that is recorded has changed: code, versions, device, threads, data")
    return "\n".join([*lines, f"the repetition: {to_relative_path(found.folder)}"])


def _format_difference(difference: "Difference") -> str:
    """Return a line with both values of a metric, in all digits, and their difference."""
    then, now = difference.then, difference.now
    numbers = [value for value in (then, now) if isinstance(value, (int, float)) and not isinstance(value, bool)]
    by = f", by {abs(numbers[1] - numbers[0]):.2g}" if len(numbers) == 2 else ""
    return f"  {difference.metric}: {then!r}, now {now!r}{by}"


if __name__ == "__main__":
    main()
