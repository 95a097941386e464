"""Sweep presets for any data set and model: which runs they are made of, and what those leave."""

from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hydra.core.plugins import Plugins
from hydra.types import HydraContext

from src.sweeps.launchers.compose import CachingConfigLoader
from tests.command_line import (
    get_image_settings,
    get_small_image_settings,
    load_checkpoint,
    read_history,
    read_json,
    run,
)
from tests.course.presets import composed, sweep

AXES = {
    "sweep=hidden_size": {"model.hidden_size": ["16", "32", "64", "128", "256", "512"], "seed": ["0", "1", "2"]},
    "sweep=learning_rate": {
        "data.batch_size": ["16", "64", "256", "1024"],
        "optimizer.lr": ["0.0001", "0.0003", "0.001", "0.003", "0.01"],
    },
    "sweep=regularization": {
        "model.dropout": ["0", "0.2", "0.5"],
        "model.batch_norm": ["False", "True"],
        "optimizer.weight_decay": ["0", "0.01", "0.1"],
    },
    "sweep=seeds": {"seed": [str(seed) for seed in range(10)]},
    "sweep=models_data": {"data": ["mnist", "fashion_mnist", "cifar10"], "model": ["mlp", "cnn"]},
}
COUNTS = {
    "sweep=hidden_size": 18,
    "sweep=learning_rate": 20,
    "sweep=regularization": 18,
    "sweep=seeds": 10,
    "sweep=models_data": 6,
}


# What is asked for


class RecordingLauncher:
    """A launcher that notes what it is asked to run, and ends there."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, str]] = []

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> None:
        self.jobs = [dict(override.split("=", 1) for override in job) for job in job_overrides]
        raise SystemExit(0)


def get_requested_jobs(*arguments: str, cwd: Path) -> list[dict[str, str]]:
    """The settings of each run that a command line asks for; none of them is run."""
    launcher = RecordingLauncher()

    def instantiate_launcher(*_: Any, hydra_context: HydraContext, **__: Any) -> RecordingLauncher:
        # As this project's launchers do it, jobs that differ only in values are composed once.
        hydra_context.config_loader = CachingConfigLoader(hydra_context.config_loader)  # type: ignore[assignment]
        return launcher

    with mock.patch.object(Plugins, "instantiate_launcher", instantiate_launcher):
        outcome = run("src.train", *arguments, cwd=cwd)
    assert outcome.code == 0 and launcher.jobs, outcome.text
    return launcher.jobs


@pytest.mark.parametrize("preset", AXES)
def test_preset_runs_full_grid_once(preset: str, tmp_path: Path) -> None:
    """A preset runs each combination of its axes exactly once."""
    axes = AXES[preset]
    combinations = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    jobs = get_requested_jobs(preset, cwd=tmp_path)
    assert jobs == [{**combination, "sweep": preset.removeprefix("sweep=")} for combination in combinations]
    assert len(jobs) == COUNTS[preset]


@pytest.mark.parametrize(
    ("preset", "given", "count"),
    [
        ("sweep=hidden_size", "model.hidden_size=8,[64,64]", 2 * 3),
        ("sweep=hidden_size", "seed=7", 6),
        ("sweep=learning_rate", "optimizer.lr=0.1,0.2", 4 * 2),
        ("sweep=learning_rate", "data.batch_size=32", 5),
        ("sweep=regularization", "optimizer.weight_decay=0,1e-4", 3 * 2 * 2),
        ("sweep=regularization", "model.batch_norm=before,after", 3 * 2 * 3),
        ("sweep=seeds", "seed=range(3)", 3),
        ("sweep=models_data", "data=mnist", 2),
        ("sweep=models_data", "model=nearest_neighbor,cnn", 3 * 2),
    ],
)
def test_command_line_axis_replaces_preset_axis(preset: str, given: str, count: int, tmp_path: Path) -> None:
    """An axis on the command line replaces the preset's axis for the same setting."""
    replaced, others = given.split("=")[0], dict(AXES[preset])
    before = others.pop(replaced)
    jobs = get_requested_jobs(preset, given, cwd=tmp_path)
    assert len(jobs) == count
    assert not {job[replaced] for job in jobs} >= set(before)
    assert all({job[key] for job in jobs} == set(values) for key, values in others.items())


def test_new_axis_extends_preset(tmp_path: Path) -> None:
    """An axis on the command line that the preset lacks is added to its axes."""
    jobs = get_requested_jobs("sweep=hidden_size", "seed=0", "optimizer.lr=0.1,0.2", cwd=tmp_path)
    assert [(job["model.hidden_size"], job["optimizer.lr"]) for job in jobs] == list(
        product(AXES["sweep=hidden_size"]["model.hidden_size"], ["0.1", "0.2"])
    )


# What the runs are made of


def summarise_config(*arguments: str) -> tuple[Any, ...]:
    """A run's model, data set, optimizer and number of epochs, and the folder's name."""
    config = composed(*arguments)
    choices = config.hydra.runtime.choices
    folder = Path(config.hydra.sweep.dir).name
    return choices["model"], choices["data"], choices["optimizer"], config.trainer.max_epochs, folder


@pytest.mark.parametrize(
    ("preset", "made"),
    [
        ("sweep=hidden_size", ("mlp", "mnist", "adam", 10, "hidden_size")),
        ("sweep=learning_rate", ("mlp", "mnist", "adam", 10, "learning_rate")),
        ("sweep=regularization", ("mlp", "mnist", "adamw", 10, "regularization")),
        ("sweep=seeds", ("mlp", "xor", "adam", 50, "seeds")),
    ],
)
def test_preset_defines_model_data_optimizer_name(preset: str, made: tuple[Any, ...]) -> None:
    """A preset has its own model, data, optimizer, number of epochs and name."""
    assert summarise_config(preset) == made


@pytest.mark.parametrize("preset", ["sweep=hidden_size", "sweep=learning_rate", "sweep=regularization", "sweep=seeds"])
def test_command_line_choices_override_preset(preset: str) -> None:
    """Choices on the command line replace the preset's."""
    given = ["model=cnn", "data=fashion_mnist", "optimizer=sgd", "trainer.max_epochs=2", "name=mine"]
    assert summarise_config(preset, *given) == ("cnn", "fashion_mnist", "sgd", 2, "mine")


@pytest.mark.parametrize(("data", "epochs"), [("mnist", 3), ("cifar10", 3), ("xor", 50), ("parabola", 20)])
def test_models_data_epochs_depend_on_data(data: str, epochs: int) -> None:
    """The preset models_data trains briefly, but on a toy data set for as long as that needs."""
    assert summarise_config("sweep=models_data", f"data={data}")[3:] == (epochs, "models_data")


def test_preset_keeps_experiment_settings() -> None:
    """A sweep preset over an experiment keeps the experiment's own settings."""
    assert summarise_config("sweep=seeds", "experiment=fashion_cnn")[:2] == ("cnn", "fashion_mnist")
    assert composed("sweep=seeds", "experiment=fashion_cnn").model == composed("experiment=fashion_cnn").model
    alone, swept = composed("experiment=wheat"), composed("sweep=hidden_size", "experiment=wheat", "data=wheat")
    assert [swept[part] for part in ("model", "data", "trainer")] == [
        alone[part] for part in ("model", "data", "trainer")
    ]


@pytest.mark.parametrize("preset", AXES)
def test_figures_use_only_general_metrics(preset: str) -> None:
    """The presets' figures require no metric that other data may lack."""
    pictures = composed(preset).hydra.callbacks.pictures.pictures
    assert [picture.title for picture in pictures.values() if "accuracy" in picture.title.lower()] == []
    assert {picture.metric for picture in pictures.values()} <= {None, "train/loss", "val/loss"}
    assert None in {picture.metric for picture in pictures.values()}


# What they leave


def metrics(jobs: dict[str, Path], name: str) -> list[Any]:
    return [read_json(folder / "metrics.json")[name] for folder in jobs.values()]


def settings(folder: Path) -> dict[str, Any]:
    """What a run's model was made from."""
    return dict(load_checkpoint(folder / "checkpoints" / "last.ckpt")["hyper_parameters"])


def test_hidden_size_preset_sets_widths(tmp_path: Path) -> None:
    """The preset hidden_size trains hidden layers of the requested widths."""
    widths = [16, 512]
    typed = ("model.hidden_size=16,512", "seed=0", "trainer.max_epochs=2")
    jobs = sweep("sweep=hidden_size", "data=xor", *typed, cwd=tmp_path)
    assert list(jobs) == [f"hidden_size-{width}_seed-0" for width in widths]
    assert {folder.parent for folder in jobs.values()} == {tmp_path / "outputs" / "sweeps" / "hidden_size"}
    assert metrics(jobs, "parameters") == [4 * width + 1 for width in widths]  # 2-width-1
    narrowest, widest = metrics(jobs, "val/loss")
    assert widest < narrowest  # in the same two epochs


def test_each_learning_rate_with_each_batch_size(data_dir: Path, tmp_path: Path) -> None:
    small = [*get_image_settings(data_dir), "data.val_size=40", "trainer.max_epochs=2"]
    given = ["data=fashion_mnist", "data.batch_size=16,160", "optimizer.lr=1e-4,1e-2"]
    jobs = sweep("sweep=learning_rate", *given, *small, cwd=tmp_path)
    assert list(jobs) == [f"batch_size-{batch}_lr-{rate}" for batch in (16, 160) for rate in ("0.0001", "0.01")]
    last = [load_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in jobs.values()]
    assert [each["global_step"] for each in last] == [20, 20, 2, 2]  # two epochs of 160 images
    assert [each["optimizer_states"][0]["param_groups"][0]["lr"] for each in last] == [1e-4, 1e-2] * 2
    slow, fast, slowest, _ = [read_history(folder)[-1]["train/loss"] for folder in jobs.values()]
    assert fast < slow < slowest


def test_regularization_preset_combines_methods(data_dir: Path, tmp_path: Path) -> None:
    """The preset regularization runs each method alone and all combinations."""
    given = ["model.dropout=0,0.5", "optimizer.weight_decay=0,0.1", "trainer.max_epochs=1"]
    jobs = sweep("sweep=regularization", *get_small_image_settings("mnist", data_dir), *given, cwd=tmp_path)
    made = [settings(folder) for folder in jobs.values()]
    combinations = [(each["dropout"], each["batch_norm"], each["optimizer"]["weight_decay"]) for each in made]
    assert combinations == list(product((0, 0.5), (False, True), (0, 0.1)))
    assert {each["optimizer"]["_target_"] for each in made} == {"torch.optim.AdamW"}
    assert len(set(metrics(jobs, "val/loss"))) == 8  # each has changed what is learned


def test_seeds_preset_repeats_given_run(data_dir: Path, tmp_path: Path) -> None:
    """The preset seeds repeats the run of the command line with each seed."""
    run_of = ["model=cnn", "model.channels=[4]", "model.hidden_size=[]", "trainer.max_epochs=1", "seed=range(3)"]
    jobs = sweep("sweep=seeds", *run_of, *get_small_image_settings("fashion_mnist", data_dir), cwd=tmp_path)
    assert list(jobs) == [f"seed-{seed}" for seed in range(3)]
    assert len(set(metrics(jobs, "val/loss"))) == 3
    assert len(set(metrics(jobs, "parameters"))) == 1


def test_each_model_on_each_data_set(data_dir: Path, tmp_path: Path) -> None:
    small = [f"paths.data={data_dir}", "++data.verify=false", "data.val_size=40", "data.batch_size=16"]
    jobs = sweep("sweep=models_data", *small, cwd=tmp_path)
    names = ["mnist", "fashion_mnist", "cifar10"]
    assert list(jobs) == [f"data-{data}_model-{model}" for data in names for model in ("mlp", "cnn")]
    assert metrics(jobs, "epochs") == [3] * 6
    inputs = [28 * 28, 28 * 28, 3 * 32 * 32]
    assert metrics(jobs, "parameters")[::2] == [(size + 1) * 100 + 101 * 10 for size in inputs]  # inputs-100-10
    assert min(metrics(jobs, "test/acc")) > 0.5  # easy ones: a place, or a colour, for each of ten classes


def test_search_preset_samples_mlp_settings(data_dir: Path, tmp_path: Path) -> None:
    assert summarise_config("sweep=search")[:2] == ("mlp", "fashion_mnist")
    small = [
        *get_small_image_settings("fashion_mnist", data_dir),
        "trainer.max_epochs=1",
        "callbacks=none",
        "hydra.sweeper.trials=3",
    ]
    outcome = run("src.train", "sweep=search", *small, cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    made = [settings(folder) for folder in outcome.folders]
    assert len({each["hidden_size"] for each in made}) == len({each["optimizer"]["lr"] for each in made}) == 3
    assert all(16 <= each["hidden_size"] <= 512 and 1e-4 <= each["optimizer"]["lr"] <= 0.1 for each in made)
    assert all(0 <= each["dropout"] <= 0.5 and isinstance(each["batch_norm"], bool) for each in made)


@pytest.mark.parametrize(
    ("preset", "fewer"),
    [
        ("sweep=seeds", ["seed=0,1"]),
        ("sweep=learning_rate", ["data.batch_size=1000", "optimizer.lr=1e-3,1e-2"]),
        ("sweep=regularization", ["model.batch_norm=false", "optimizer.weight_decay=0", "data.batch_size=1000"]),
    ],
)
def test_presets_draw_figures_for_regression(preset: str, fewer: list[str], tmp_path: Path) -> None:
    jobs = sweep(
        preset, "data=cubic", "trainer.max_epochs=1", *fewer, cwd=tmp_path
    )  # which asserts that they are there
    assert set(metrics(jobs, "monitor")) == {"val/loss"}
