"""What a preset tuned for one choice does not silently stay with another."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from src.cli.presets import check_choices, find_tuned_settings
from src.core.errors import InputError
from tests.command_line import BARE, CONF, run, train, train_bare
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


def read_optimizer(folder: Path) -> dict[str, object]:
    settings = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"), resolve=True)
    assert isinstance(settings, dict)
    return dict(settings["optimizer"])


def test_preset_sets_its_own_optimizer(mine: str, tmp_path: Path) -> None:
    made = read_optimizer(train_bare(mine, "experiment=fast", cwd=tmp_path).folder)
    assert (made["lr"], made["momentum"]) == (0.5, 0.5)


def test_other_optimizer_refuses_preset_learning_rate(mine: str, tmp_path: Path) -> None:
    """A learning rate that was tuned for one optimizer is not silently used with another."""
    error = run("src.train", mine, "experiment=fast", "optimizer=adam", *BARE, cwd=tmp_path).error
    assert "experiment=fast sets optimizer.lr for optimizer=sgd" in error
    assert "with optimizer=adam give optimizer.lr=… too" in error


def test_other_optimizer_with_learning_rate_is_accepted(mine: str, tmp_path: Path) -> None:
    """The user gives the other optimizer its own learning rate."""
    made = read_optimizer(
        train_bare(mine, "experiment=fast", "optimizer=adam", "optimizer.lr=0.02", cwd=tmp_path).folder
    )
    assert (made["_target_"], made["lr"]) == ("torch.optim.Adam", 0.02)


def test_preset_without_choices_has_no_ties() -> None:
    """Only settings of a group that the preset chooses are tuned for that choice."""
    assert find_tuned_settings({"optimizer": {"lr": 0.5}}) == []
    assert find_tuned_settings(yaml.safe_load(PRESET)) == [("optimizer", "sgd", "optimizer.lr")]


def test_interpolated_choice_has_no_ties() -> None:
    """A choice that depends on another one ties no settings to itself."""
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
def test_conflicting_presets_are_refused(given: list[str], told: str) -> None:
    """The message names the choices that the user has to give."""
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
def test_compatible_presets_are_accepted(given: list[str]) -> None:
    """Presets are accepted if they agree or if a choice on the command line resolves their conflict."""
    check_choices(composed(*given).hydra)


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("[!_]*.yaml")), ids=lambda path: path.stem)
def test_sweep_presets_match_their_experiments(path: Path) -> None:
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
def test_sweep_may_override_its_own_experiments(experiment: str, tmp_path: Path) -> None:
    """A sweep preset may change choices of the experiments that it runs."""
    check_choices(compose_own_sweep(tmp_path, f"experiment={experiment}"))


def test_sweep_conflicts_with_other_experiment(tmp_path: Path) -> None:
    """With another experiment, what the sweep preset changes is a conflict."""
    told = r"^sweep=own is for optimizer=adam and experiment=pulse for optimizer=sgd: give optimizer=… too$"
    with pytest.raises(InputError, match=told):
        check_choices(compose_own_sweep(tmp_path, "experiment=pulse"))


def compose_own_sweep(tmp_path: Path, *given: str) -> Any:
    """Hydra's settings of a command line with the sweep above."""
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "own.yaml").write_text(OWN_SWEEP)
    return composed(f"hydra.searchpath=[{tmp_path}]", "sweep=own", *given).hydra


def test_conflicting_sweep_creates_nothing(tmp_path: Path) -> None:
    error = run("src.train", "sweep=hidden_size", "experiment=wheat", cwd=tmp_path).error
    assert error == "error: sweep=hidden_size is for data=mnist and experiment=wheat for data=wheat: give data=… too"
    assert not (tmp_path / "outputs").exists()


def test_sweep_over_experiments_refuses_conflicting_job(tmp_path: Path) -> None:
    given = ["hydra/launcher=basic", "sweep=hidden_size", "model.hidden_size=4", "seed=0", *BARE]
    outcome = run("src.train", *given, "experiment=wheat,mnist_mlp", cwd=tmp_path)
    assert outcome.code == 1
    assert "sweep=hidden_size is for data=mnist and experiment=wheat for data=wheat: give data=… too" in outcome.text


def test_command_line_resolves_preset_conflict(tmp_path: Path) -> None:
    """Both presets are used."""
    given = ["hydra/launcher=basic", "sweep=hidden_size", "model.hidden_size=4,5", "seed=0", "trainer.max_epochs=1"]
    folders = train(*given, "experiment=parabola", "data=parabola", *BARE, cwd=tmp_path).folders
    made = [OmegaConf.load(folder / ".hydra" / "config.yaml") for folder in folders if folder.name[0] in "01"]
    assert [config.model.hidden_size for config in made] == [4, 5]
    assert {config.data._target_ for config in made} == {"src.data.toy.Parabola"}
