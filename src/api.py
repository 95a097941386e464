"""Train, load and use runs and sweeps from Python code and notebooks.

    from src.api import load_run, load_sweep, sweep, train
    run = train("model=cnn data=mnist trainer.max_epochs=3")
    run.metrics, run.history, run.figures["confusion_matrix"], run.predict(pixels)
    load_sweep("outputs/sweeps/width").table

Settings are those of the command line, and so are the results, to the last digit. An error that the user can fix is an
`InputError`, whose message is one line; nothing here ends the process.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning import LightningModule
from omegaconf import DictConfig

from src.core.commands import run_command
from src.core.disk import to_storage_error
from src.core.errors import InputError
from src.core.formatting import format_html, to_relative_path, to_table
from src.core.places import make_folder_name
from src.inference.load import LoadedRun
from src.inference.outputs import Predictions
from src.inference.predict import predict_inputs
from src.storage.configs import CONFIG_FILE, read_config
from src.storage.files import read_bytes
from src.storage.records import read_metrics
from src.storage.schema import read_history
from src.storage.status import read_status
from src.storage.strays import refuse_strays
from src.storage.trust import read_packages
from src.sweeps.report.write import PAGE_FILE
from src.sweeps.store.jobs import refuse_strays_outside_jobs
from src.sweeps.store.leaderboard import build_leaderboards
from src.sweeps.store.results import build_rows, find_scalar_metrics
from src.sweeps.store.runs import read_runs
from src.training.evaluate import evaluate
from src.training.python_run import TIME_FORMAT, Overrides, compose_in_python, open_python_run, split_overrides
from src.training.repeat import Repetition, repeat_run
from src.training.run import train as train_run

__all__ = [
    "Figure",
    "InputError",
    "Predictions",
    "Repetition",
    "Run",
    "Sweep",
    "load_run",
    "load_sweep",
    "sweep",
    "train",
]


def train(overrides: Overrides = ()) -> "Run":
    """Train a model as ``python -m src.train`` does, and return the finished run.

    A progress bar shows how far it is, in a terminal and in a notebook. ``resume=FOLDER`` continues a run.

    Args:
        overrides: choices and settings as on the command line: ``"model=cnn data=mnist"``, quoted as for a shell, or
            ``["model=cnn", "data=mnist"]``.

    Raises:
        InputError: if a setting is invalid, or training fails in a way that other settings can mend.
        KeyboardInterrupt: on Ctrl-C or a notebook's stop button; the run can be resumed.
    """
    with compose_in_python(overrides) as composed, open_python_run(composed) as (config, folder):
        train_run(config, folder)
    return Run(folder)


def sweep(overrides: Overrides) -> "Sweep":
    """Run a sweep as ``python -m src.train -m`` does, in separate processes, and return it.

    Args:
        overrides: as for `train`, with several values for a setting, or ``sweep=NAME``.

    Raises:
        InputError: if a setting is invalid, or a job fails.
        KeyboardInterrupt: on Ctrl-C; the same call with a ``name=`` resumes the sweep.
    """
    arguments = split_overrides(overrides)
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if "hydra.sweep.dir" in given:
        raise InputError("hydra.sweep.dir has no effect in Python; name=… and paths.outputs=… set a sweep's folder")
    if "preview" in given:
        raise InputError(f"preview={given['preview']} is for the command line: python -m src.train -m … preview=true")
    stamp = f"{datetime.now():{TIME_FORMAT}}"
    if "name" not in given:
        arguments.append(f"name={stamp}")
    run_command("src.train", ["-m", *arguments])
    outputs = Path(given.get("paths.outputs", "outputs").strip("'\"")).expanduser()
    return load_sweep(outputs / "sweeps" / make_folder_name(given.get("name", stamp), stamp))


def load_run(folder: str | Path, trust: str | Sequence[str] = ()) -> "Run":
    """Return the run in a folder, also one that has not finished, or a job of a sweep.

    Args:
        folder: the run's folder.
        trust: packages whose classes the folder may name, besides this project's: "mylab" or ["mylab", "yourlab"].

    Raises:
        InputError: if there is no run.
    """
    path = Path(folder).expanduser()
    if not (path / CONFIG_FILE).is_file():
        raise InputError(f"{folder}: no run there ({path / CONFIG_FILE} is missing)")
    refuse_strays(path)
    return Run(path, read_packages(trust or None))


def load_sweep(folder: str | Path, trust: str | Sequence[str] = ()) -> "Sweep":
    """Return the sweep in a folder, also one that has not finished.

    Args:
        folder: the sweep's folder.
        trust: as for `load_run`.

    Raises:
        InputError: if there are no jobs in it.
    """
    path = Path(folder).expanduser()
    refuse_strays_outside_jobs(path)
    read_runs(path)
    return Sweep(path, read_packages(trust or None))


class Figure:
    """A figure of a run or a sweep, a PNG; a notebook shows it.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Figure({to_relative_path(self.path)})"

    def _repr_png_(self) -> bytes:
        try:
            return read_bytes(self.path)
        except OSError as error:
            raise to_storage_error(self.path, error, "read") from error


class Run:
    """A run in its folder; what it holds is read when it is asked for.

    Attributes:
        folder: the run's folder, absolute.
    """

    def __init__(self, folder: Path, packages: tuple[str, ...] = ()) -> None:
        self.folder, self._packages, self._trust = folder.absolute(), packages, _format_trust(packages)

    @property
    def status(self) -> str:
        """How far it is: one of `src.storage.schema.STATUSES`, or "damaged"."""
        return str(read_status(self.folder)["status"])

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the chosen epoch and of the test, as in ``metrics.json``; empty until an epoch ends."""
        return read_metrics(self.folder)

    @property
    def history(self) -> Any:
        """The metrics of each epoch, a row each: a data frame, or a list of dictionaries without pandas.

        Raises:
            InputError: if ``history.csv`` is damaged.
        """
        return to_table(list(read_history(self.folder / "history.csv")))

    @property
    def figures(self) -> Mapping[str, Figure]:
        """The figures by name."""
        return {path.stem: Figure(path) for path in sorted((self.folder / "figures").glob("*.png"))}

    @property
    def config(self) -> DictConfig:
        """All settings of the run."""
        return read_config(self.folder)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint with the chosen weights.

        Raises:
            InputError: if no epoch has ended.
        """
        return self._loaded.path

    @property
    def model(self) -> LightningModule:
        """The model with the chosen weights, on its device and in evaluation mode.

        ``model(model.preprocessing(inputs))`` are its outputs for raw inputs (B, *in_shape).
        """
        return self._loaded.model

    @cached_property
    def _loaded(self) -> LoadedRun:
        with compose_in_python([f"run={self.folder}", *self._trust], "predict") as config:
            return LoadedRun(config)

    def predict(self, inputs: Any = None, *, split: str | None = None, top: int = 3) -> Predictions:
        """Predict inputs as ``python -m src.predict`` does, or the run's own samples.

        Args:
            inputs: an array or a tensor with one raw input or several (pixels as uint8, other numbers as
                published); a data frame for a run with ``data=table``; or the path of a picture, a folder, an array or
                a table, or a list of paths.
            split: "train", "val" or "test" instead of inputs.
            top: how many classes each row of the result's table has.

        Raises:
            InputError: if an input cannot be read or has another shape or type than the network takes.
        """
        return predict_inputs(self._loaded, inputs, split, top)

    def evaluate(self, split: str = "val") -> dict[str, float]:
        """Evaluate the run on its validation set or, with "test", its test set, as ``python -m src.eval`` does.

        Raises:
            InputError: if it has no such samples.
        """
        with compose_in_python([f"run={self.folder}", f"split={split}", *self._trust], "eval") as config:
            return evaluate(config)

    def resume(self, overrides: Overrides = ()) -> "Run":
        """Continue the run where it stopped, or longer: ``run.resume("trainer.max_epochs=20")``; see `train`."""
        return train([f"resume={self.folder}", *self._trust, *split_overrides(overrides)])

    def repeat(self, out: str | Path | None = None) -> Repetition:
        """Run it again as ``python -m src.repeat`` does, into a new folder, and compare the two to the last digit.

        Raises:
            InputError: if it has not finished, or cannot be repeated here.
        """
        return repeat_run(self.folder, self._packages, None if out is None else Path(out).expanduser())

    def __repr__(self) -> str:
        return f"Run({to_relative_path(self.folder)}, {self.status})"

    def _repr_html_(self) -> str:
        metrics = self.metrics
        return format_html(repr(self), [{"": name, " ": metrics[name]} for name in find_scalar_metrics(metrics)])


class Sweep:
    """A sweep in its folder; what it holds is read when it is asked for.

    Attributes:
        folder: the sweep's folder, absolute.
    """

    def __init__(self, folder: Path, packages: tuple[str, ...] = ()) -> None:
        self.folder, self._packages, self._trust = folder.absolute(), packages, _format_trust(packages)

    @property
    def runs(self) -> list[Run]:
        """The runs of all jobs, in the order of their numbers."""
        return [Run(run.folder, self._packages) for run in read_runs(self.folder)]

    @property
    def table(self) -> Any:
        """A row for each job, as in ``results.csv``: a data frame, or a list of dictionaries without pandas."""
        return to_table(build_rows(read_runs(self.folder)))

    @property
    def best(self) -> Run:
        """The first run of the best entry of the leaderboard.

        Raises:
            InputError: if no job has finished, or they cannot be compared: other data, other metrics.
        """
        boards = build_leaderboards(read_runs(self.folder))
        if len(boards) != 1:
            raise InputError(f"{self.folder}: its jobs have {len(boards)} leaderboards: choose among .runs")
        if boards[0].objectives:
            raise InputError(
                f"{self.folder}: it was judged by {' and '.join(boards[0].objectives)}: choose among .runs"
            )
        if (chosen := boards[0].chosen) is None:
            raise InputError(f"{self.folder}: no finished run has a metric to rank by")
        return Run(chosen.finished[0].folder, self._packages)

    @property
    def figures(self) -> Mapping[str, Figure]:
        """The figures that compare its runs, by name."""
        return {path.stem: Figure(path) for path in sorted((self.folder / "figures").glob("*.png"))}

    def write_report(self) -> Path:
        """Write ``report.html`` as ``python -m src.report`` does, in a separate process, and return its path."""
        run_command("src.report", [str(self.folder), *self._trust])
        return self.folder / PAGE_FILE

    def __repr__(self) -> str:
        return f"Sweep({to_relative_path(self.folder)}, {len(read_runs(self.folder))} jobs)"

    def _repr_html_(self) -> str:
        return format_html(repr(self), build_rows(read_runs(self.folder)))


def _format_trust(packages: tuple[str, ...]) -> list[str]:
    """Return the setting that lets a command open a folder with classes of these packages."""
    return [f"trust=[{','.join(packages)}]"] if packages else []
