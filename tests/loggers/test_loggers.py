"""A run's loggers: what each gets, and that a run that goes on is the same run to each of them."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.core.errors import InputError
from src.loggers.kinds import RunStart, find_adapter
from src.loggers.opening import IDS_FILE, close_loggers, resolve_logger_settings
from tests.command_line import Outcome, read_history, read_json, run, train


class Notes(Logger):
    """A service's logger in small: each run has a file there, by an id that the service chooses."""

    def __init__(self, save_dir: str, version: str | None = None) -> None:
        super().__init__()
        known = len(list(Path(save_dir).glob("*.notes")))
        self.path = Path(save_dir) / f"{version or f'run-{known}'}.notes"

    name = "notes"

    @property
    def version(self) -> str:
        return self.path.stem

    @property
    def experiment(self) -> None:
        self.note("opened", None)

    def note(self, what: str, told: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([what, told]) + "\n")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.note("settings", params)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.note("metrics", {**metrics, "step": step})

    def log_image(self, key: str, images: list[np.ndarray], step: int) -> None:
        self.note("picture", {"name": key, "shape": [list(each.shape) for each in images], "step": step})


SETTINGS = ("logger=[tensorboard,csv]", f"+logger.notes._target_={__name__}.Notes")
SHORT = ("trainer.max_epochs=2", "callbacks=default", "~callbacks.decision_regions")


class Plain(Logger):
    """As Lightning's documentation has one: without ``experiment``."""

    name, version = "plain", "0"
    told: ClassVar[list[Any]] = []

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.told.append(params["optimizer"]["lr"])

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.told.append(sorted(metrics))


def test_custom_logger_needs_no_experiment(tmp_path: Path) -> None:
    """A user-defined logger without an `experiment` property gets settings and metrics."""
    Plain.told.clear()
    train("callbacks=none", "logger=none", f"+logger.own._target_={__name__}.Plain", SHORT[0], cwd=tmp_path)
    assert Plain.told[0] == 0.01
    assert ["epoch", "val/acc", "val/loss"] in Plain.told


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run of two epochs, ten steps each."""
    return train(*SETTINGS, *SHORT, "name=first", cwd=tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def resumed(first: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it that goes on to a third epoch, with rows that a killed start would have left."""
    cwd = tmp_path_factory.mktemp("resumed")
    folder = Path(shutil.copytree(first.folder, cwd / "outputs" / "runs" / "first"))
    with (folder / "metrics.csv").open("a") as file:
        file.write(",,25,,,,,7.0,,\n,,2")
    outcome = run("src.train", "resume=outputs/runs/first", "trainer.max_epochs=3", cwd=cwd)
    assert outcome.code == 0, outcome.text
    return folder


def read_notes(folder: Path, what: str) -> list[Any]:
    lines = [json.loads(line) for path in folder.glob("*.notes") for line in path.read_text().splitlines()]
    return [told for kind, told in lines if kind == what]


def read_column(folder: Path, name: str) -> list[tuple[int, float]]:
    """The steps and values of a metric in the CSV logger's file."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row[name]]


def test_each_logger_gets_all_settings(first: Outcome) -> None:
    config = OmegaConf.load(first.folder / ".hydra" / "config.yaml")
    config.paths.data = "no-data-folder-was-given"  # which the tests' environment says
    settings: Any = OmegaConf.to_container(config, resolve=True)
    assert len(settings) > 15 and settings["trainer"]["max_epochs"] == 2
    assert yaml.safe_load((first.folder / "hparams.yaml").read_text()) == settings
    assert read_notes(first.folder, "settings") == [settings]


def test_each_logger_gets_all_metrics(first: Outcome) -> None:
    rows, noted = read_history(first.folder), read_notes(first.folder, "metrics")
    for name in ("train/loss", "train/acc", "val/loss", "val/acc"):
        expected = [(9, pytest.approx(rows[0][name])), (19, pytest.approx(rows[1][name]))]
        assert read_column(first.folder, name) == expected
        assert [(each["step"], each[name]) for each in noted if name in each] == expected
    assert read_column(first.folder, "test/acc") == [(20, first.metrics["test/acc"])]
    assert [step for step, _ in read_column(first.folder, "train/loss_step")] == [9, 19]
    assert [each["step"] for each in noted if "train/loss_step" in each] == [9, 19]


def test_loggers_get_figures_they_support(first: Outcome) -> None:
    """Each logger gets the figures it supports; the run logs which loggers cannot show figures."""
    pictures = {each["name"]: each for each in read_notes(first.folder, "picture")}
    assert set(pictures) == {"visuals/curves", "visuals/confusion_matrix"}
    assert pictures["visuals/curves"]["step"] == 20
    ((height, width, channels),) = pictures["visuals/curves"]["shape"]
    assert channels == 3 and min(height, width) > 100
    assert first.text.count("cannot show figures") == 1
    assert "logger.csv cannot show figures: they are in figures/" in first.text


def test_resumed_run_keeps_logger_ids(first: Outcome, resumed: Path) -> None:
    """A resumed run continues the same run at each logger."""
    assert [path.name for path in resumed.glob("*.notes")] == ["run-0.notes"]
    assert read_json(resumed / IDS_FILE) == {"notes": "run-0"}
    assert read_notes(resumed, "settings")[0]["trainer"]["max_epochs"] == 2
    assert read_notes(resumed, "settings")[1]["trainer"]["max_epochs"] == 3
    assert yaml.safe_load((resumed / "hparams.yaml").read_text())["trainer"]["max_epochs"] == 3


def test_resumed_csv_has_each_point_once(resumed: Path) -> None:
    """The first start's test, at step 20, and what a start logged that was killed in the third epoch are taken back."""
    for name in ("train/loss", "val/loss"):
        values = [pytest.approx(row[name]) for row in read_history(resumed)]
        assert read_column(resumed, name) == list(zip([9, 19, 29], values, strict=True))
    assert [step for step, _ in read_column(resumed, "train/loss_step")] == [9, 19, 29]
    assert [step for step, _ in read_column(resumed, "test/acc")] == [30]


def test_tensorboard_has_only_run_metrics(first: Outcome) -> None:
    """TensorBoard gets the run's metrics and the learning rate, and no other charts."""
    events = EventAccumulator(str(first.folder)).Reload()
    scalars = [tag for tag in events.Tags()["scalars"] if not tag.endswith("_step")]
    measured = [f"{stage}/{measure}" for stage in ("test", "train", "val") for measure in ("acc", "loss")]
    assert sorted(scalars) == sorted([*measured, "train/lr-Adam"])


def test_unknown_tensorboard_setting_is_refused(tmp_path: Path) -> None:
    """A setting that TensorBoard's writer does not have is refused before training."""
    outcome = run("src.train", "callbacks=none", "+logger.tensorboard.colour=red", cwd=tmp_path)
    assert outcome.error == "error: logger.tensorboard cannot be opened: it has no setting called colour"
    assert not list(tmp_path.rglob("*.ckpt"))


def test_invalid_run_ids_are_refused(first: Outcome, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(first.folder, tmp_path / "outputs" / "runs" / "first"))
    (folder / IDS_FILE).write_text('{"notes": "../../elsewhere"}')
    outcome = run("src.train", "resume=outputs/runs/first", "trainer.max_epochs=3", cwd=tmp_path)
    assert outcome.code == 1
    assert f"{IDS_FILE} is damaged: notes is not the ID of a run; remove the file to log to a new run" in outcome.error
    assert not list(tmp_path.rglob("*elsewhere*"))


# Services: their packages are not needed here


@pytest.mark.parametrize("flags", [(), ("-m", "seed=0,1")])
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_logger_package_is_refused(
    name: str, flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logger whose package is missing gives a one-line error and leaves no files."""
    monkeypatch.setattr("src.core.extras.find_spec", lambda package: None)
    outcome = run("src.train", *flags, f"logger=[csv,{name}]", cwd=tmp_path)
    how = f"python -m pip install -c constraints.txt -e '.[{name}]'"
    assert outcome.code == 1
    assert outcome.error == f"error: logger.{name} needs the package {name}, which is not installed: {how}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", ["+logger.csv.api_key=k-123", "+logger.csv.url=https://me:k-123@host/x"])
def test_secrets_in_settings_are_refused(setting: str, tmp_path: Path) -> None:
    """Secrets in a logger's settings are refused before anything is written."""
    outcome = run("src.train", "logger=csv", setting, cwd=tmp_path)
    name = setting.strip("+").split("=")[0]
    assert outcome.code == 1
    assert outcome.error.startswith(f"error: {name}: a secret would be kept in the run's folder")
    assert "k-123" not in outcome.text and list(tmp_path.iterdir()) == []


def resolve_settings(logger: type, start: RunStart, **given: Any) -> dict[str, Any]:
    target = f"lightning.pytorch.loggers.{logger.__name__}"
    return resolve_logger_settings("mine", OmegaConf.create({"_target_": target, **given}), start)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for the packages; returns the stores that MLflow's has been asked to make."""
    stores: list[str] = []
    monkeypatch.setattr("src.loggers.kinds.require_package", lambda *args: None)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=stores.append))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return stores


def test_job_is_grouped_by_sweep(tmp_path: Path, packages: list[str]) -> None:
    """A job is a separate run at W&B and MLflow, grouped by its sweep."""
    start = RunStart(tmp_path / "grid" / "0_lr-1", tmp_path / "grid", None)
    wandb = resolve_settings(WandbLogger, start, name=None, group=None)
    assert (wandb["name"], wandb["group"]) == ("0_lr-1", "grid")
    mlflow = resolve_settings(MLFlowLogger, start, experiment_name=None, run_name=None, tracking_uri=None)
    assert (mlflow["experiment_name"], mlflow["run_name"]) == ("grid", "0_lr-1")
    assert mlflow["tracking_uri"] == f"sqlite:///{tmp_path}/grid/mlflow.db" == packages[0]
    assert mlflow["artifact_location"] == f"file://{tmp_path}/grid/mlruns"
    alone = resolve_settings(WandbLogger, RunStart(tmp_path / "x", None, None), name="own", group=None)
    assert (alone["name"], alone["group"]) == ("own", None)


def test_given_mlflow_store_is_used(tmp_path: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    start = RunStart(tmp_path / "x", None, None)
    file = resolve_settings(MLFlowLogger, start, tracking_uri=f"file:{tmp_path}/store")
    assert (file["tracking_uri"], "artifact_location" in file) == (f"file:{tmp_path}/store", False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://host")
    assert resolve_settings(MLFlowLogger, start)["tracking_uri"] == "https://host"


@pytest.mark.parametrize(("logger", "name"), [(WandbLogger, "version"), (MLFlowLogger, "run_id")])
def test_service_gets_id_of_resumed_run(logger: type, name: str, tmp_path: Path, packages: list[str]) -> None:
    (tmp_path / IDS_FILE).write_text('{"mine": "a1-b2"}')
    assert resolve_settings(logger, RunStart(tmp_path, None, 20))[name] == "a1-b2"
    assert resolve_settings(logger, RunStart(tmp_path, None, 20), **{name: "other"})[name] == "other"
    assert resolve_settings(logger, RunStart(tmp_path, None, None)).get(name) is None


def test_mlflow_gets_settings_and_changed_tags() -> None:
    """MLflow gets the settings by their full names, and changed settings as tags."""
    logged: dict[str, str] = {}
    tags: dict[str, str] = {}
    client = SimpleNamespace(
        get_run=lambda run: SimpleNamespace(data=SimpleNamespace(params=dict(logged))),
        set_tag=lambda run, key, value: tags.update({key: value}),
    )
    logger = SimpleNamespace(experiment=client, run_id="r", log_hyperparams=logged.update)
    for epochs in (5, 9):
        cfg = OmegaConf.create({"seed": 0, "trainer": {"max_epochs": epochs, "what": "x" * 300}, "hydra": {"a": 1}})
        find_adapter(MLFlowLogger).log_config(logger, cfg)
    assert logged == {"seed": "0", "trainer.max_epochs": "5", "trainer.what": "x" * 250}
    assert tags == {"trainer.max_epochs": "9"}


def test_wandb_leaves_no_outside_link(tmp_path: Path) -> None:
    """W&B's symbolic links that lead out of the run's folder are removed."""
    run = tmp_path / "run"
    logs = run / "wandb" / "offline-run-1" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to(tmp_path / "elsewhere")
    (logs / "debug.log").write_text("")
    find_adapter(WandbLogger).open_logger(SimpleNamespace(experiment=None), RunStart(run, None, None))
    assert [path.name for path in logs.iterdir()] == ["debug.log"]


def succeed() -> None:
    """Do nothing."""


def fail() -> None:
    raise InputError("no")


@pytest.mark.parametrize(("work", "status"), [(succeed, 0), (fail, 1)])
def test_wandb_run_ends_with_exit_code(work: Callable[[], None], status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run at W&B ends with the local run, with its exit code."""
    ended: list[int] = []
    wandb = SimpleNamespace(run="one", finish=lambda exit_code: ended.append(exit_code))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    try:
        with close_loggers():
            work()
    except InputError:
        pass
    assert ended == [status]
