"""The runs of a sweep as their folders tell them, at any time and wherever they lie."""

from pathlib import Path
from typing import Any, NamedTuple

from src.core.errors import InputError
from src.storage.configs import APART
from src.storage.records import DAMAGED
from src.storage.schema import read_history
from src.sweeps.store.jobs import Job, read_jobs

CHOICES = ("experiment", "model", "data")  # settings whose values say what they are
WORDS = {"lr": "learning rate"}  # settings whose names are no words


class Run(NamedTuple):
    """A job of a sweep and how far it came.

    Attributes:
        folder: where it lies.
        number: its number in the sweep.
        swept: the settings that vary over the sweep, resolved; those that it has.
        seed: the one that it drew from, if it is known.
        status: waiting, running, finished, interrupted, failed, or damaged where its files do not tell.
        reason: why it was stopped, in a word or two; of a damaged one the files.
        message: why, in a sentence; of a damaged one what is wrong.
        metrics: what its ``metrics.json`` tells; empty before its first epoch's end.
        data: its data set.
        known: whether it is known what it is, as its notes are whole.
    """

    folder: Path
    number: int
    swept: dict[str, Any]
    seed: int | None
    status: str
    reason: str | None
    message: str | None
    metrics: dict[str, Any]
    data: str | None
    known: bool = True

    @property
    def label(self) -> str:
        """What makes this run another than the rest, its seeds apart: "hidden size 3, dropout 0.5"."""
        return spoken({key: value for key, value in self.swept.items() if not is_seed(key)}) or "all runs"

    @property
    def title(self) -> str:
        """What makes it another with its seeds, which tells it from all the rest."""
        return spoken(self.swept) or self.folder.name

    @property
    def caption(self) -> str:
        """Its label in words, for a picture."""
        return in_words({key: value for key, value in self.swept.items() if not is_seed(key)}) or "all runs"

    @property
    def full_caption(self) -> str:
        """Its title in words, for a picture."""
        return in_words(self.swept) or self.folder.name.replace("_", " ")

    @property
    def history(self) -> list[dict[str, float]]:
        """Its metrics, epoch by epoch, from ``history.csv``.

        Raises:
            DamagedError: if it is damaged.
        """
        epochs = self.metrics.get("epochs") if self.status == "finished" else None
        return read_history(self.folder / "history.csv", epochs)


def is_seed(key: str) -> bool:
    """Whether a setting is a seed: ``seed``, ``data.split_seed``."""
    return key.endswith("seed")


def spoken(settings: dict[str, Any]) -> str:
    """Settings as one would say them: {"model.hidden_size": 3} → "hidden size 3"."""
    return ", ".join(
        said(value) if key in CHOICES and value is not None else f"{key.split('.')[-1].replace('_', ' ')} {said(value)}"
        for key, value in settings.items()
    )


def in_words(settings: dict[str, Any]) -> str:
    """Return settings in words: {"optimizer.lr": 1, "model.batch_norm": False} → "learning rate 1, no batch norm"."""
    return ", ".join(_value_in_words(key, value) for key, value in settings.items())


def _value_in_words(key: str, value: Any) -> str:
    name = name_in_words(key)
    if isinstance(value, bool):
        return name if value else f"no {name}"
    text = "none" if value is None or value == [] else said(value)
    text = text.replace("_", " ") if text.isidentifier() else text
    return text if key in CHOICES and value is not None else f"{name} {text}"


def name_in_words(key: str) -> str:
    """Return a setting's name as a picture tells it: "optimizer.lr" → "learning rate"."""
    name = key.split(".")[-1]
    return WORDS.get(name, name.replace("_", " "))


def said(value: Any) -> str:
    """A setting's value as it is typed: 0.001, [4,4], true, null; equal values are said alike."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(said, value))}]"
    return str(value)


def folded(runs: list[Run]) -> dict[str, list[Run]]:
    """The runs by what they are called in pictures: those that differ in their seeds alone come together."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.caption, []).append(run)
    return groups


def read_runs(folder: Path) -> list[Run]:
    """All jobs of a sweep in the order of their numbers.

    Raises:
        InputError: if there is none.
    """
    jobs = read_jobs(folder)
    if not jobs:
        raise InputError(f"{folder}: there are no jobs in it")
    return [read_run(job, swept) for job, swept in zip(jobs, swept_settings(jobs), strict=True)]


def with_metrics(folder: Path) -> list[Run]:
    """The runs of a sweep that can be drawn: with metrics, neither failed nor damaged.

    Raises:
        InputError: if there is none.
    """
    runs = [run for run in read_runs(folder) if run.metrics and run.status not in ("failed", DAMAGED)]
    if not runs:
        raise InputError(f"{folder}: there are no runs with metrics in it")
    return runs


def read_run(job: Job, swept: dict[str, Any]) -> Run:
    """A job's run, from what it has left so far."""
    status, metrics = job.status, job.metrics
    seed, data = metrics.get("seed"), job.choices.get("data")
    return Run(
        folder=job.folder,
        number=job.number,
        swept=swept,
        seed=job.settings.get("seed") if seed is None else seed,
        **status,
        metrics=metrics,
        data=None if data is None else said(data),
        known=job.damage is None,
    )


def swept_settings(jobs: list[Job]) -> list[dict[str, Any]]:
    """For each job its values of the settings that were asked for and differ, both as typed and as resolved.

    Paths and devices are none, as they make no other job; of a damaged job nothing is known.
    """
    typed = [typed_settings(job) for job in jobs]
    keys = list(dict.fromkeys(key for each in typed for key in each if not key.startswith(APART)))
    resolved = [resolved_settings(job, each, keys) for job, each in zip(jobs, typed, strict=True)]
    whole = [place for place, job in enumerate(jobs) if job.damage is None]
    varying = [
        key
        for key in keys
        if len({typed[place].get(key) for place in whole}) > 1
        and len({said(resolved[place][key]) if key in resolved[place] else None for place in whole}) > 1
    ]
    return [{key: each[key] for key in varying if key in each} for each in resolved]


def resolved_settings(job: Job, typed: dict[str, str], keys: list[str]) -> dict[str, Any]:
    """A job's values for those of the keys that it has."""
    known = {**typed, **job.choices, **job.settings}
    return {key: known[key] for key in keys if key in known}


def typed_settings(job: Job) -> dict[str, str]:
    """The settings that a job was asked for with, by name, as typed; deletions and Hydra's own are none."""
    pairs = [override.lstrip("+").split("=", 1) for override in job.overrides]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and not pair[0].startswith(("~", "hydra.", "hydra/"))}
