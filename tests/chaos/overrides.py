"""Thousands of command lines, each of which gives the right result or one clear line and status 1.

    python -m tests.chaos overrides --seed 0 --count 10000

They run through the real command line, most on the smallest run there is, in processes that watch for hangs and
crashes. Each finding is printed with the string that it is about; the same seed draws the same strings.
"""

import os
import re
import shutil
import tempfile
import traceback
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from tqdm import tqdm

from tests import command_line
from tests.chaos.guard import Lost, call_each
from tests.chaos.override_strings import ACCEPT, REFUSE, TRAINED, Trial, trials
from tests.chaos.settings import GROUPS, OF_PATHS, known
from tests.command_line import Outcome, read_json, train_bare
from tests.shortcuts import taking_shortcuts
from tests.small_data import write_cifar10, write_mnist

PATIENCE = 240.0  # seconds; the slowest string takes a few on a busy machine
LONGEST_LINE = 1500  # characters
WARNING = re.compile(r"^.*Warning: .*\n(  .*\n)?", re.MULTILINE)  # of a function that fails; it names its own line
DIVERGED = "the loss became"  # a right result of settings under which nothing is learned


class Verdict(NamedTuple):
    """What became of a trial: "refused", "right" or "wrong", and why."""

    what: str
    why: str = ""


class Row(NamedTuple):
    """A kind of fault: how many tries, and what they came to."""

    fault: str
    tries: int
    refused: int
    right: int
    wrong: int


class Table(NamedTuple):
    """What came of all trials: a row for each kind of fault, and a line for each finding."""

    rows: list[Row]
    found: list[str]

    @property
    def wrong(self) -> int:
        return len(self.found)

    def __str__(self) -> str:
        head = ("fault", "tries", "refused in one line", "right result", "wrong", "verdict")
        total = Row("all", *[sum(counts) for counts in zip(*[row[1:] for row in self.rows], strict=True)])
        body = [(*map(str, row), "held" if not row.wrong else "did not hold") for row in [*self.rows, total]]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (head, *body)]
        return "\n".join([*lines, *self.found])


class Bench(NamedTuple):
    """What trials need: data sets, and a run to evaluate."""

    data: Path
    trained: Path


def run(seed: int, count: int, workers: int = os.cpu_count() or 1) -> Table:
    """Try as many command lines."""
    found: list[str] = []
    verdicts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder, taking_shortcuts(), unreachable_network():
        bench = prepare(Path(folder))
        tried = call_each(partial(judge, bench), trials(seed, count), workers, PATIENCE)
        for trial, verdict in tqdm(tried, "overrides", count, disable=None):
            if isinstance(verdict, Lost):
                verdict = Verdict("wrong", verdict.how)
            verdicts[trial.kind, verdict.what] += 1
            if verdict.what == "wrong":
                found.append(f"{trial.kind}: {verdict.why}: {trial}")
    kinds = dict.fromkeys(kind for kind, _ in verdicts)
    counts = {kind: [verdicts[kind, what] for what in ("refused", "right", "wrong")] for kind in kinds}
    return Table([Row(kind, sum(each), *each) for kind, each in counts.items()], found)


def prepare(folder: Path) -> Bench:
    """Write small data sets, and train a run."""
    data = folder / "data"
    write_mnist(data, train=100, test=20)
    write_mnist(data, "FashionMNIST", train=100, test=20)
    write_cifar10(data, train=100, test=20)
    return Bench(data, train_bare("trainer.max_epochs=1", cwd=folder).folder)


def unreachable_network() -> Any:
    """Let nothing be downloaded."""
    error = urllib.error.URLError("Network is unreachable")
    return mock.patch.object(urllib.request, "urlopen", side_effect=error)


def judge(bench: Bench, trial: Trial, folder: Path) -> Verdict:
    """Run a trial's command in a folder of its own and look at what it left."""
    cwd = folder / "some" / "where" / "deep"
    cwd.mkdir(parents=True)
    (cwd / "file").touch()
    before = listing(folder)
    try:
        given = [argument.replace(f"run={TRAINED}", f"run={bench.trained}") for argument in trial.arguments]
        given = [f"paths.data={bench.data}", *given] if trial.module == "src.train" else given
        key = trial.override.partition("=")[0]
        given = [each for each in given if each == trial.override or each.partition("=")[0] != key]  # not given twice
        with mock.patch.dict(os.environ, HOME=str(cwd)):
            outcome = command_line.run(trial.module, *given, cwd=cwd)
        verdict = refusal(trial, outcome) if outcome.code else result(trial, outcome, cwd)
        strays = listing(folder) - before
        return Verdict("wrong", f"{sorted(strays)} written outside") if strays and not allowed(trial) else verdict
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Verdict("wrong", f"traceback: {type(error).__name__}: {error} ({where.filename}:{where.lineno})")
    finally:
        shutil.rmtree(folder / "some", ignore_errors=True)


def listing(folder: Path) -> set[Path]:
    """Return what lies beside a trial's working directory, and at the top of the file system."""
    return {*Path("/").iterdir(), *folder.iterdir(), *folder.glob("some/*"), *folder.glob("some/where/*")}


def allowed(trial: Trial) -> bool:
    return ".." in trial.override  # that is where it asked to write


def refusal(trial: Trial, outcome: Outcome) -> Verdict:
    """Judge a command that ended with an error: one clear line, status 1."""
    try:
        line = replace(outcome, err=WARNING.sub("", outcome.err)).error
    except AssertionError as error:
        return Verdict("wrong", f"not refused in one line: {str(error)[:2000]!r}")
    if len(line) > LONGEST_LINE:
        return Verdict("wrong", f"refused in {len(line)} characters: {line[:200]}")
    if not line.isprintable():
        return Verdict("wrong", f"refused with control characters: {line!r}")
    if "which is not installed" in line:  # an extra
        return Verdict("refused", line)
    if trial.must == ACCEPT:
        return Verdict("wrong", f"refused though right: {line}")
    if trial.names and not any(name in line for name in (*trial.names, DIVERGED)):
        return Verdict("wrong", f"refused without naming {trial.names}: {line}")
    return Verdict("refused", line)


def result(trial: Trial, outcome: Outcome, cwd: Path) -> Verdict:
    """Judge a command that ended well: what was typed makes sense and is what the run's records have."""
    if "Traceback" in outcome.text:
        return Verdict("wrong", f"traceback in {outcome.text[-500:]!r}")
    if trial.must == REFUSE:
        return Verdict("wrong", "nonsense accepted")
    if trial.module == "src.eval":
        return (
            Verdict("right")
            if "val/loss" in outcome.text or "test/loss" in outcome.text
            else Verdict("wrong", outcome.text)
        )
    if outcome.out.startswith(("Thunderhead", "#")) or "-m" in trial.arguments:
        return Verdict("right")
    finished = [
        path.parent for path in cwd.parent.parent.rglob("status.json") if read_json(path)["status"] == "finished"
    ]
    if len(finished) != 1:
        return Verdict("wrong", f"{len(finished)} finished runs: {outcome.text[-300:]!r}")
    return recorded(trial, finished[0])


def recorded(trial: Trial, folder: Path) -> Verdict:
    """Judge what the run in a folder has recorded of what was typed."""
    if trial.override.partition("=")[0] in OF_PATHS:  # text, whatever it looks like
        return Verdict("right")
    try:
        override = OverridesParser.create().parse_override(trial.override)
    except HydraException:  # a path, which is put into quotes
        return Verdict("right")
    name, value = override.key_or_group, override.value()
    if override.is_delete() or name.startswith("hydra") or "${" in trial.override:
        return Verdict("right")
    hydra = OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra
    if name in (*GROUPS, "experiment", "sweep") and not isinstance(value, dict):
        kept = hydra.runtime.choices.get(name)
        same = str(kept) == str(value) or isinstance(value, list)  # which Hydra does not note
        return Verdict("right") if same else Verdict("wrong", f"{name}={kept} recorded")
    kept = OmegaConf.select(OmegaConf.load(folder / ".hydra" / "config.yaml"), name)
    kept = OmegaConf.to_container(kept) if OmegaConf.is_config(kept) else kept
    settings = {setting.name: setting for setting in known()}
    if name in settings and not settings[name].suits(value):
        return Verdict("wrong", f"nonsense accepted: {name}={value!r}")
    if isinstance(value, dict) or (name, value) == ("seed", None):
        return Verdict("right")  # a dictionary is merged, and a seed drawn
    same = type(kept) is type(value) and (kept == value or str(kept) == str(value))
    return Verdict("right") if same else Verdict("wrong", f"{name}={kept!r} recorded")
