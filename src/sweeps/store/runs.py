"""The runs of a sweep, read from their folders at any time, and texts that name them."""

from pathlib import Path
from typing import Any, NamedTuple

from src.core.errors import InputError
from src.storage.configs import NON_IDENTIFYING
from src.storage.records import DAMAGED
from src.storage.schema import read_history
from src.sweeps.store.jobs import Job, read_jobs

CHOICE_SETTINGS = ("experiment", "model", "data")  # settings whose values are clear without the setting's name
SETTING_WORDS = {"lr": "learning rate"}  # words for settings whose names are abbreviations


class Run(NamedTuple):
    """A job of a sweep and its results so far.

    Attributes:
        folder: its folder.
        number: its number in the sweep.
        swept: its values of the settings that vary over the sweep, resolved; settings that it lacks are left out.
        seed: the seed that it used, if known.
        status: waiting, running, finished, interrupted, failed, or damaged if its files cannot be read.
        reason: why it was stopped, in a word or two; the damaged files if it is damaged.
        message: why it was stopped, in a sentence; the damage if it is damaged.
        metrics: the content of its ``metrics.json``; empty before the end of its first epoch.
        data: its data set.
        is_known: True if its job file is undamaged, so that its settings are known.
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
    is_known: bool = True

    @property
    def label(self) -> str:
        """The settings that distinguish the run from others, without seeds: "hidden size 3, dropout 0.5"."""
        return format_settings({key: value for key, value in self.swept.items() if not is_seed(key)}) or "all runs"

    @property
    def title(self) -> str:
        """The settings that distinguish the run from all others, with seeds."""
        return format_settings(self.swept) or self.folder.name

    @property
    def caption(self) -> str:
        """The label in words, for a figure."""
        return _describe_settings({key: value for key, value in self.swept.items() if not is_seed(key)}) or "all runs"

    @property
    def full_caption(self) -> str:
        """The title in words, for a figure."""
        return _describe_settings(self.swept) or self.folder.name.replace("_", " ")

    @property
    def history(self) -> list[dict[str, float]]:
        """The metrics of each epoch, from ``history.csv``.

        Raises:
            DamagedError: if the file is damaged.
        """
        epochs = self.metrics.get("epochs") if self.status == "finished" else None
        return read_history(self.folder / "history.csv", epochs)


def is_seed(key: str) -> bool:
    """Return True if a setting is a seed, as ``seed`` and ``data.split_seed`` are."""
    return key.endswith("seed")


def format_settings(settings: dict[str, Any]) -> str:
    """Return settings as short text: {"model.hidden_size": 3} → "hidden size 3"."""
    return ", ".join(
        format_setting_value(value)
        if key in CHOICE_SETTINGS and value is not None
        else f"{key.split('.')[-1].replace('_', ' ')} {format_setting_value(value)}"
        for key, value in settings.items()
    )


def _describe_settings(settings: dict[str, Any]) -> str:
    """Return settings in words: {"optimizer.lr": 1, "model.batch_norm": False} → "learning rate 1, no batch norm"."""
    return ", ".join(_describe_setting(key, value) for key, value in settings.items())


def _describe_setting(key: str, value: Any) -> str:
    name = describe_setting_name(key)
    if isinstance(value, bool):
        return name if value else f"no {name}"
    text = "none" if value is None or value == [] else format_setting_value(value)
    text = text.replace("_", " ") if text.isidentifier() else text
    return text if key in CHOICE_SETTINGS and value is not None else f"{name} {text}"


def describe_setting_name(key: str) -> str:
    """Return a setting's name as words for a figure: "optimizer.lr" → "learning rate"."""
    name = key.split(".")[-1]
    return SETTING_WORDS.get(name, name.replace("_", " "))


def format_setting_value(value: Any) -> str:
    """Return a setting's value as on the command line: 0.001, [4,4], true, null; equal values give equal texts."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(format_setting_value, value))}]"
    return str(value)


def group_by_caption(runs: list[Run]) -> dict[str, list[Run]]:
    """Group runs by their captions in figures, so that runs that differ only in their seeds come together."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.caption, []).append(run)
    return groups


def read_runs(folder: Path) -> list[Run]:
    """Return the runs of all jobs of a sweep, in the order of their numbers.

    Raises:
        InputError: if there are no jobs.
    """
    jobs = read_jobs(folder)
    if not jobs:
        raise InputError(f"{folder}: it contains no jobs")
    return [read_run(job, swept) for job, swept in zip(jobs, find_swept_settings(jobs), strict=True)]


def read_runs_with_metrics(folder: Path) -> list[Run]:
    """Return the runs of a sweep that can be drawn: those with metrics that are neither failed nor damaged.

    Raises:
        InputError: if there are none.
    """
    runs = [run for run in read_runs(folder) if run.metrics and run.status not in ("failed", DAMAGED)]
    if not runs:
        raise InputError(f"{folder}: it contains no runs with metrics")
    return runs


def read_run(job: Job, swept: dict[str, Any]) -> Run:
    """Return a job's run, from the files it has written so far."""
    status, metrics = job.status, job.metrics
    seed, data = metrics.get("seed"), job.choices.get("data")
    return Run(
        folder=job.folder,
        number=job.number,
        swept=swept,
        seed=job.settings.get("seed") if seed is None else seed,
        **status,
        metrics=metrics,
        data=None if data is None else format_setting_value(data),
        is_known=job.damage is None,
    )


def find_swept_settings(jobs: list[Job]) -> list[dict[str, Any]]:
    """Return each job's resolved values of the settings that vary over the sweep.

    A setting varies if it was set on the command line, and its values differ both as typed and as resolved. Paths
    and devices are left out, as they do not change a job's result; damaged jobs are not compared.
    """
    typed = [_parse_overrides(job) for job in jobs]
    keys = list(dict.fromkeys(key for values in typed for key in values if not key.startswith(NON_IDENTIFYING)))
    resolved = [_select_resolved_settings(job, values, keys) for job, values in zip(jobs, typed, strict=True)]
    intact = [index for index, job in enumerate(jobs) if job.damage is None]
    # Values typed differently may mean the same (1e-3 and 0.001), and values typed alike may resolve differently
    # (${seed}): a setting varies only if both kinds of values differ.
    varying = [
        key
        for key in keys
        if len({typed[index].get(key) for index in intact}) > 1
        and len({format_setting_value(resolved[index][key]) if key in resolved[index] else None for index in intact})
        > 1
    ]
    return [{key: values[key] for key in varying if key in values} for values in resolved]


def _select_resolved_settings(job: Job, overrides: dict[str, str], keys: list[str]) -> dict[str, Any]:
    """Return a job's values of the given keys, without keys that it lacks."""
    known = {**overrides, **job.choices, **job.settings}
    return {key: known[key] for key in keys if key in known}


def _parse_overrides(job: Job) -> dict[str, str]:
    """Return a job's overrides from the command line, by setting and as typed, without deletions and Hydra's own."""
    pairs = [override.lstrip("+").split("=", 1) for override in job.overrides]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and not pair[0].startswith(("~", "hydra.", "hydra/"))}
