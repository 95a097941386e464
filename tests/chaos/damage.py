"""Damage files in the folders of runs and sweeps, and see what the commands that read them make of it.

A command must end well, or with one line and status 1; an evaluation that ends well must give the very metrics of the
undamaged run.
"""

import json
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tests import command_line
from tests.chaos.table import Row, Table
from tests.command_line import BARE, Outcome, read_json

PATIENCE = 60  # seconds for a command, of which it needs less than one
RUN, SWEEP = Path("outputs/runs/x"), Path("outputs/sweeps/x")
VALUES: tuple[Any, ...] = (None, True, -1, 1e999, "text", [], {}, [1], {"a": 1}, 10**400, "<b>", "\n")
COMMANDS = {
    "evaluate": (RUN, ("src.eval", f"run={RUN}")),
    "resume": (RUN, ("src.train", f"resume={RUN}")),
    "report": (SWEEP, ("src.report", str(SWEEP))),
    "compare": (SWEEP, ("src.compare", str(SWEEP))),
    "list": (Path("outputs"), ("src.runs",)),
}


def truncate(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size or 1)])


def empty(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes()) or bytearray(1)
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def blank(path: Path, chance: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def spoil_text(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"\xff\xfe" + path.read_bytes())


def replace_value(path: Path, chance: random.Random) -> None:
    """Give a field of a JSON file a value of another type, or take it out; of other files a line."""
    if path.suffix != ".json":
        lines = path.read_bytes().split(b"\n")
        lines[chance.randrange(len(lines))] = chance.choice((b"", b"- [", b"a: 1", b"x,y,z", b"\t"))
        path.write_bytes(b"\n".join(lines))
        return
    content = json.loads(path.read_text())
    key = chance.choice(sorted(content))
    content[key] = chance.choice(VALUES)
    path.write_text(json.dumps(content))


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def swap(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.choice(find_files(path.parent)).read_bytes())


def make_folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def lead_out(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (
    *(truncate, empty, flip, flip, blank, spoil_text, replace_value, replace_value, replace_value),
    *(delete, swap, make_folder, make_pipe, lead_out),
)


def find_files(folder: Path) -> list[Path]:
    """Return the files of runs and sweeps below a folder that a command may read."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in found if path.suffix in (".json", ".yaml", ".csv", ".ckpt"))


def prepare(folder: Path) -> float:
    """Train a run and a small sweep; return the run's validation loss."""
    tiny = (*BARE, "name=x", "trainer.max_epochs=1")
    for arguments in (tiny, ("-m", *tiny, "seed=0,1", "hydra/launcher=basic")):
        outcome = command_line.run("src.train", *arguments, cwd=folder)
        assert outcome.code == 0, outcome.text
    return evaluate(folder)


def evaluate(folder: Path) -> float:
    assert command_line.run("src.eval", f"run={RUN}", cwd=folder).code == 0
    return float(read_json(folder / RUN / "eval_val.json")["val/loss"])


def attempt(start: Path, place: Path, expected: float, chance: random.Random) -> tuple[str, str | None]:
    """Damage a file and give a command; return what was done, and what is wrong with what came of it."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(start, place)
    name = chance.choice(sorted(COMMANDS))
    below, arguments = COMMANDS[name]
    path, damage = chance.choice(find_files(place / below)), chance.choice(DAMAGES)
    damage(path, chance)
    signal.alarm(PATIENCE)
    try:
        outcome = command_line.run(*arguments, cwd=place)
    except Exception as error:
        return name, f"{damage.__name__} {path.relative_to(place)}: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    wrong = find_wrong(name, outcome, place, expected)
    return name, wrong and f"{damage.__name__} {path.relative_to(place)}: {wrong}"


def find_wrong(name: str, outcome: Outcome, place: Path, expected: float) -> str | None:
    if "Traceback" in outcome.text:
        return f"a traceback: {outcome.text[-300:]!r}"
    if outcome.code not in (0, 1):
        return f"status {outcome.code}"
    if outcome.code and "error: " not in outcome.text:
        return f"no line tells why: {outcome.text[-300:]!r}"
    if name == "evaluate" and outcome.code == 0:
        found = read_json(place / RUN / "eval_val.json")["val/loss"]
        return None if found == expected else f"other metrics were lost in it: {found} for {expected}"
    return None


def run_attempts(seed: int, count: int) -> tuple[Counter[str], list[str]]:
    """Return how often each command was tried, and what went wrong."""
    tries: Counter[str] = Counter()
    findings: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        start, place = Path(folder) / "start", Path(folder) / "place"
        start.mkdir()
        expected = prepare(start)
        for number in tqdm(range(count), "damage", disable=None):
            name, wrong = attempt(start, place, expected, random.Random(f"{seed} {number}"))
            tries[name] += 1
            findings += [f"{name}, seed {seed}, {number}: {wrong}"] if wrong else []
    return tries, findings


def run(seed: int, count: int) -> Table:
    """Damage so many files."""
    tries, findings = run_attempts(seed, count)
    wrong = Counter(finding.partition(",")[0] for finding in findings)
    return Table([Row(name, tries[name], 0, wrong[name]) for name in sorted(tries)], findings)
