"""What a preset tuned for one choice does not silently stay with another."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from src.cli.presets import check_choices, find_tuned_settings
from src.core.errors import InputError
from tests.command_line import BARE, CONF, quick, run, train
from tests.course.presets import composed

PRESET = """
# @package _global_
defaults:
  - override /optimizer: sgd
optimizer:
  lr: 0.5
recipe:
  max_epochs: 1
  sgd: { momentum: 0.5 }
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A config folder of one's own, with a preset that sets a learning rate for its optimizer."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "fast.yaml").write_text(PRESET)
    return f"hydra.searchpath=[{tmp_path / 'mine'}]"


def optimizer_of(folder: Path) -> dict[str, object]:
    settings = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"), resolve=True)
    assert isinstance(settings, dict)
    return dict(settings["optimizer"])


def test_a_preset_has_its_way_with_its_own_optimizer(mine: str, tmp_path: Path) -> None:
    made = optimizer_of(quick(mine, "experiment=fast", cwd=tmp_path).folder)
    assert (made["lr"], made["momentum"]) == (0.5, 0.5)


def test_another_optimizer_does_not_keep_the_presets_learning_rate(mine: str, tmp_path: Path) -> None:
    error = run("src.train", mine, "experiment=fast", "optimizer=adam", *BARE, cwd=tmp_path).error
    assert "experiment=fast sets optimizer.lr for optimizer=sgd" in error
    assert "with optimizer=adam give optimizer.lr=… too" in error


def test_another_optimizer_with_its_own_learning_rate_is_taken(mine: str, tmp_path: Path) -> None:
    made = optimizer_of(quick(mine, "experiment=fast", "optimizer=adam", "optimizer.lr=0.02", cwd=tmp_path).folder)
    assert (made["_target_"], made["lr"]) == ("torch.optim.Adam", 0.02)


def test_a_preset_that_chooses_nothing_ties_nothing() -> None:
    assert find_tuned_settings({"optimizer": {"lr": 0.5}}) == []
    assert find_tuned_settings(yaml.safe_load(PRESET)) == [("optimizer", "sgd", "optimizer.lr")]


def test_a_choice_that_depends_on_another_one_ties_nothing() -> None:
    assert find_tuned_settings({"defaults": [{"override /optimizer": "${model}_sgd"}], "optimizer": {"lr": 0.5}}) == []


# Two presets


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ["sweep=hidden_size", "experiment=wheat"],
            "sweep=hidden_size is for data=mnist and experiment=wheat for data=wheat: give data=… too",
        ),
        (
            ["experiment=fashion_cnn", "sweep=hidden_size", "data=fashion_mnist"],
            "sweep=hidden_size is for model=mlp and experiment=fashion_cnn for model=cnn: give model=… too",
        ),
        (
            ["sweep=regularization", "experiment=wheat"],
            "sweep=regularization is for data=mnist, optimizer=adamw and experiment=wheat for data=wheat, "
            "optimizer=adam: give data=… optimizer=… too",
        ),
        (  # which has its data from the preset that it builds on
            ["sweep=hidden_size", "experiment=gates_hidden"],
            "sweep=hidden_size is for data=mnist and experiment=gates_hidden for data=gate: give data=… too",
        ),
        (
            ["sweep=models_data", "experiment=wheat"],
            "sweep=models_data is for data=mnist,fashion_mnist,cifar10 and experiment=wheat for data=wheat: "
            "give data=… too",
        ),
    ],
)
def test_presets_that_choose_differently_are_refused_with_what_to_give(given: list[str], told: str) -> None:
    with pytest.raises(InputError) as error:
        check_choices(composed(*given).hydra)
    assert str(error.value) == told


@pytest.mark.parametrize(
    "given",
    [
        ["sweep=hidden_size", "experiment=wheat", "data=wheat"],
        ["sweep=hidden_size", "experiment=wheat", "data=parabola"],  # the user's choice
        ["sweep=hidden_size", "experiment=mnist_mlp"],  # both are for MNIST
        ["sweep=regularization", "experiment=wheat", "data=wheat", "optimizer=adamw"],
        ["sweep=models_data", "experiment=mnist_cnn"],  # one of the axis
        ["sweep=models_data", "experiment=wheat", "data=wheat"],
        ["sweep=seeds", "experiment=wheat"],  # a sweep for any data
        ["sweep=wheat", "debug=one_batch"],
        ["experiment=wheat", "data=mnist"],
        ["data=mnist"],
    ],
)
def test_presets_that_agree_and_choices_on_the_command_line_are_taken(given: list[str]) -> None:
    check_choices(composed(*given).hydra)


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("[!_]*.yaml")), ids=lambda path: path.stem)
def test_a_sweep_may_choose_its_experiment(path: Path) -> None:
    check_choices(composed(f"sweep={path.stem}").hydra)
    for experiment in str(yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"].get("experiment", "")).split(
        ","
    ):
        check_choices(composed(f"sweep={path.stem}", *([f"experiment={experiment}"] if experiment else [])).hydra)


OWN_SWEEP = """
# @package _global_
defaults:
  - override /experiment: xor
  - override /optimizer: adam
hydra:
  sweeper:
    params:
      experiment: xor,gates
"""


@pytest.mark.parametrize("experiment", ["xor", "gates"])
def test_a_sweep_means_what_it_changes_of_the_experiments_it_runs(experiment: str, tmp_path: Path) -> None:
    check_choices(own_sweep(tmp_path, f"experiment={experiment}"))


def test_a_sweep_does_not_mean_what_it_changes_of_another_experiment(tmp_path: Path) -> None:
    told = r"^sweep=own is for optimizer=adam and experiment=pulse for optimizer=sgd: give optimizer=… too$"
    with pytest.raises(InputError, match=told):
        check_choices(own_sweep(tmp_path, "experiment=pulse"))


def own_sweep(tmp_path: Path, *given: str) -> Any:
    """Hydra's settings of a command line with the sweep above."""
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "own.yaml").write_text(OWN_SWEEP)
    return composed(f"hydra.searchpath=[{tmp_path}]", "sweep=own", *given).hydra


def test_a_sweep_of_presets_that_do_not_fit_ends_before_anything_is_made(tmp_path: Path) -> None:
    error = run("src.train", "sweep=hidden_size", "experiment=wheat", cwd=tmp_path).error
    assert error == "error: sweep=hidden_size is for data=mnist and experiment=wheat for data=wheat: give data=… too"
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_over_experiments_refuses_the_one_that_does_not_fit(tmp_path: Path) -> None:
    given = ["hydra/launcher=basic", "sweep=hidden_size", "model.hidden_size=4", "seed=0", *BARE]
    outcome = run("src.train", *given, "experiment=wheat,mnist_mlp", cwd=tmp_path)
    assert outcome.code == 1
    assert "sweep=hidden_size is for data=mnist and experiment=wheat for data=wheat: give data=… too" in outcome.text


def test_both_presets_are_used_where_the_command_line_decides(tmp_path: Path) -> None:
    given = ["hydra/launcher=basic", "sweep=hidden_size", "model.hidden_size=4,5", "seed=0", "trainer.max_epochs=1"]
    folders = train(*given, "experiment=parabola", "data=parabola", *BARE, cwd=tmp_path).folders
    made = [OmegaConf.load(folder / ".hydra" / "config.yaml") for folder in folders if folder.name[0] in "01"]
    assert [config.model.hidden_size for config in made] == [4, 5]
    assert {config.data._target_ for config in made} == {"src.data.toy.Parabola"}
