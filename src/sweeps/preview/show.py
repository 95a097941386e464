"""Print what a sweep would run and what it would take; nothing is run, and nothing is written."""

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import setup_globals
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.core.commands import format_command
from src.core.formatting import format_count, format_long_duration, format_setting_value
from src.sweeps.launchers.launch import Engine, Part, Schedule, refuse_invalid_sweep
from src.sweeps.launchers.local import LocalEngine
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.launchers.vectorized import VectorizedEngine, describe_plan
from src.sweeps.preview.costs import Costs, describe_kind, find_costs
from src.sweeps.progress.summary import describe_damaged_jobs, summarize_pending_jobs
from src.sweeps.store.jobs import Job
from src.sweeps.store.runs import find_swept_settings

MAX_VALUES = 12  # values of a setting that are listed
HIDDEN_SETTINGS = ("name", "preview", "rerun", "trust")  # settings that are no part of a job
UNLIMITED_WIDTH = 10_000  # columns if the output is not a terminal: nothing is cut off
QUOTED = re.compile(r"(?<==)'([\w./~-]+)'$")  # a path or a name that needs no quotes where it is typed
EARLY_ENDS = ("trainer.max_steps", "trainer.max_time")


class Work(NamedTuple):
    """What is left to do.

    Attributes:
        jobs: the jobs that are not finished.
        epochs: the epochs that are left of each job; ``None`` where a job has no limit.
        stacked: the numbers of the jobs that are trained in stacks.
        at_once: the number of jobs or stacks at once; ``None``: a cluster decides.
    """

    jobs: list[Job]
    epochs: list[int | None]
    stacked: set[int]
    at_once: int | None


def show_sweep(sweep: Sweep, engine: Engine, job_overrides: list[list[str]], schedule: Schedule | None) -> None:
    """Print the preview of a sweep; the arguments are those of `src.sweeps.launchers.launch.launch`.

    Raises:
        InputError: if the sweep would be refused.
    """
    setup_globals()
    planned = sweep.plan_jobs(job_overrides)
    jobs, start_method = list({job.number: job for job in planned}.values()), getattr(engine, "start_method", None)
    if schedule is not None:
        schedule.check(sweep, jobs, start_method)
    refuse_invalid_sweep(sweep, planned, start_method)
    is_again = sweep.config.rerun == "all"
    left = jobs if is_again else [job for job in jobs if job.status["status"] != "finished"]
    again = f"{sweep.folder}: {format_count(len(jobs), 'job')}: all run again from the beginning"
    title = again if is_again else summarize_pending_jobs(sweep.folder, jobs, left)
    rows = [("varies", line) for line in describe_axes(find_swept_settings(jobs))]
    if left:
        work, lines = plan_work(sweep, engine, left)
        parts = schedule.plan_parts(jobs) if schedule else []
        rows += [*lines, *describe_epochs(jobs, work, parts), *describe_costs(sweep, jobs, work, parts)]
    print_preview([*describe_damaged_jobs(sweep.folder), title], rows, format_table(jobs), bool(left))


def print_preview(titles: list[str], rows: Iterable[tuple[str, str]], table: str, is_left: bool) -> None:
    """Print a preview.

    Args:
        titles: its first lines.
        rows: further lines, and the word that each begins with; a repeated word is shown once.
        table: a text that follows.
        is_left: True if there is something to do.
    """
    lines, before = titles.copy(), ""
    for word, text in rows:
        lines.append(f"  {word if word != before else '':<9} {text}")
        before = word
    what = "the same command without preview=true starts it" if is_left else "all jobs have finished"
    lines += [*(["", table.rstrip(), ""] if table else []), f"nothing was run or written: {what}", ""]
    print("\n".join(lines), end="", flush=True)  # at once, so that a reader may leave early: | head


def describe_axes(swept: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each setting that varies, with its values."""
    lines = []
    for key in dict.fromkeys(key for settings in swept for key in settings):
        values = list(dict.fromkeys(format_setting_value(each[key]) for each in swept if key in each))
        more = f" … {values[-1]} ({len(values)} values)" if len(values) > MAX_VALUES else ""
        lines.append(f"{key}: {', '.join(values[: MAX_VALUES - 1] if more else values)}{more}")
    return lines


# What is run


def plan_work(sweep: Sweep, engine: Engine, left: list[Job]) -> tuple[Work, list[tuple[str, str]]]:
    """Return what is left to do, and lines on how the launcher runs it."""
    rows, stacked = [], set[int]()
    if isinstance(engine, VectorizedEngine):
        resources = engine.local.compute_resources(left)
        stacks, rest = engine.plan_stacks(sweep, left, resources)
        stacked = {job.number for stack in stacks for job in stack.jobs}
        rows = [("stacks", line) for line in describe_plan(stacks, rest)]
        at_once: int | None = len(resources)
    else:
        at_once = count_at_once(engine, left)
    launcher = sweep.config.hydra.runtime.choices["hydra/launcher"]
    how = (
        "as many as the cluster has room for"
        if at_once is None
        else f"at most {at_once} process{'es' * (at_once != 1)}"
    )
    epochs = [count_left(job, sweep.config.rerun) for job in left]
    return Work(left, epochs, stacked, at_once), [*rows, ("at once", f"{how} (hydra/launcher={launcher})")]


def count_at_once(engine: Engine, jobs: list[Job]) -> int | None:
    """Return the number of processes at once; ``None``: a cluster decides."""
    local = engine.local if isinstance(engine, VectorizedEngine) else engine
    if isinstance(local, LocalEngine):
        return len(local.compute_resources(jobs))
    return getattr(engine, "max_jobs", None)


def get_limit(job: Job) -> int | None:
    """Return a job's number of epochs; ``None`` if it has no limit."""
    limit = job.settings.get("trainer.max_epochs")
    return limit if isinstance(limit, int) and limit > 0 else None


def count_left(job: Job, rerun: str | None = None) -> int | None:
    """Return the epochs that are left of a job, which resumes from its last one; ``None`` if it has no limit."""
    is_again = rerun == "all" or (rerun == "failed" and job.status["status"] == "failed")
    done = 0 if is_again or not has_state(job) else int(job.metrics.get("epochs", 0))
    limit = get_limit(job)
    return None if limit is None else max(0, limit - done)


def has_state(job: Job) -> bool:
    """Return True if a job resumes, or has finished."""
    return (job.folder / "checkpoints" / "last.ckpt").is_file() or job.stack is not None


def may_end_early(job: Job) -> bool:
    """Return True if a job may end before its last epoch."""
    stops = any(re.fullmatch(r"callbacks\..*EarlyStopping", f"{key}{value}") for key, value in _list_callbacks(job))
    return stops or any(job.settings.get(name) not in (None, -1) for name in EARLY_ENDS)


def _list_callbacks(job: Job) -> list[tuple[str, Any]]:
    return [item for item in job.settings.items() if item[0].startswith("callbacks.") and item[0].endswith("_target_")]


def describe_epochs(jobs: list[Job], work: Work, parts: list[Part]) -> list[tuple[str, str]]:
    """Return lines on the epochs of all jobs, and of those that are left."""
    limits = [get_limit(job) for job in jobs]
    if None in limits:
        return [("epochs", "unknown: trainer.max_epochs sets no limit")]
    whole = sum(filter(None, limits))
    most = "at most " if any(map(may_end_early, jobs)) else ""
    if not parts:
        left = sum(filter(None, work.epochs))
        return [("epochs", f"{most}{whole:,} in all" + (f", of which {left:,} are left" if left < whole else ""))]
    total, done = sum(part.total for part in parts), whole - sum(filter(None, work.epochs))
    before = f"; {done:,} are trained already" if done else ""
    lines = [f"{most}{total:,} in all, {total / whole:.0%} of the {whole:,} of the plain sweep{before}"]
    lines += [f"{_describe_span(part)}: {format_count(part.jobs, 'job')}" for part in parts]
    return [("epochs", line) for line in lines]


def _describe_span(part: Part) -> str:
    """Return the epochs of a part: "epoch 1", "epochs 2 to 3"."""
    first = part.start + 1
    return f"epoch {first}" if first == part.end else f"epochs {first} to {part.end}"


# What it takes


def describe_costs(sweep: Sweep, jobs: list[Job], work: Work, parts: list[Part]) -> list[tuple[str, str]]:
    """Return lines on the time and the disk that are needed, estimated from finished runs."""
    kinds = [describe_kind(job.settings, job.number in work.stacked) for job in work.jobs]
    costs = find_costs(sweep.folder, set(kinds), Path(sweep.config.paths.outputs))
    if not costs.all or None in work.epochs:
        return [("time", line) for line in explain_unknown(work, bool(costs.all))]
    means = [costs.estimate(kind) for kind in kinds]
    spent = [
        mean.epoch_seconds * (count or 0) + mean.other_seconds for mean, count in zip(means, work.epochs, strict=True)
    ]
    if parts:
        wanted = sum(part.total for part in parts) - sum(job.metrics.get("epochs", 0) for job in jobs)
        share = max(0, wanted) / max(1, sum(filter(None, work.epochs)))
        spent = [seconds * min(1.0, share) for seconds in spent]
    new = sum(mean.size for job, mean in zip(work.jobs, means, strict=True) if not has_state(job))
    longest = 0.0 if work.stacked else max(spent)
    time = describe_time(sum(spent), longest, work.at_once, costs)
    if unlike := sum(kind not in costs.by_kind for kind in kinds):
        time += f"; {unlike} of the {len(kinds)} jobs left are unlike those"
    return [("time", time), ("disk", describe_disk(new, sweep.folder))]


def describe_time(total: float, longest: float, at_once: int | None, costs: Costs) -> str:
    """Return the estimated time, and what it is estimated from.

    Args:
        total: seconds of all jobs together.
        longest: seconds of the longest job.
        at_once: the number of jobs at once; ``None``: a cluster decides.
        costs: what finished runs took.
    """
    seconds = total if at_once is None else max(total / at_once, longest)
    text = f"about {format_long_duration(float(f'{seconds:.2g}') if seconds < 60 else seconds)} for the jobs"
    if at_once is None:
        text += " together, divided by those that run at once"
    devices = ", ".join(dict.fromkeys(cost.device for cost in costs.all))
    return f"{text}, as {format_count(len(costs.all), costs.noun)} {costs.where} took on {devices}"


def describe_disk(size: float, folder: Path) -> str:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return f"about {size / 1e6:,.3g} MB; {free / 1e9:,.3g} GB are free"


def explain_unknown(work: Work, is_measured: bool) -> list[str]:
    """Return why the time is unknown, and the command that measures it."""
    if is_measured:
        return ["unknown: trainer.max_epochs sets no limit"]
    if work.stacked:
        how = "the same command with trainer.max_epochs=1 name=measured trains an epoch of each job, then preview again"
        return [f"unknown until a stack of this kind has finished; {how}"]
    job = work.jobs[0]
    gone = tuple(f"{name}=" for name in (*HIDDEN_SETTINGS, "trainer.max_epochs"))
    overrides = [QUOTED.sub(r"\1", each) for each in job.overrides if not each.startswith(gone)]
    command = format_command("src.train", ["-m", *overrides, "trainer.max_epochs=1", "name=measured"])
    return [
        "unknown until a job of this kind has finished; this one trains an epoch of it, then preview again:",
        command,
    ]


# Settings


def format_table(jobs: Sequence[Job]) -> str:
    """Return a table of the first and the last job's settings that the command line or the sweep's preset gave."""
    shown = [jobs[0], jobs[-1]] if len(jobs) > 1 else [jobs[0]]
    given = [_read_overrides(job) for job in shown]
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = UNLIMITED_WIDTH
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("setting", *(f"job {job.number}" for job in shown)):
        table.add_column(name, overflow="fold")
    for key in dict.fromkeys(key for each in given for key in each):
        table.add_row(*map(Text, (key, *(each.get(key, "") for each in given))))
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _read_overrides(job: Job) -> dict[str, str]:
    pairs = (QUOTED.sub(r"\1", each).lstrip("+").partition("=") for each in job.overrides)
    return {key: value for key, _, value in pairs if key not in HIDDEN_SETTINGS}
