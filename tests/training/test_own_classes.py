"""Models, data sets, callbacks and configs of one's own, in a project outside the checkout."""

import os
import re
from pathlib import Path
from textwrap import dedent

import pytest

from src.models.mlp import MLP
from tests.command_line import (
    BARE,
    Outcome,
    evaluate,
    load_checkpoint,
    read_history,
    read_json,
    read_weights,
    run,
    train,
    train_bare,
)


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(content))


# A package and configs: models, a data set, presets.
FILES = {
    "mine/__init__.py": "",
    "mine/model.py": """
import math
import torch
from src.models.base import SupervisedModule

class Centres(torch.nn.Module):
    def __init__(self, in_features, count, out_features):
        super().__init__()
        self.centres = torch.nn.Parameter(torch.randn(count, in_features))
        self.output = torch.nn.Linear(count, out_features)

    def forward(self, x):
        return self.output(torch.exp(-torch.cdist(x.flatten(1), self.centres).square()))

class MyModel(SupervisedModule):
    def __init__(self, hidden_size, **settings):
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        self.net = Centres(math.prod(self.in_shape), hidden_size, self.out_features)

class Doubled(MyModel):
    def __init__(
        self, hidden_size, activation, dropout, batch_norm, output_bias, products, init, init_std, **settings
    ):
        super().__init__(2 * hidden_size, **settings)
""",
    "mine/data.py": """
import torch
from src.data.loading.samples import Samples
from src.data.base import TensorDataModule

class Rings(TensorDataModule):
    task = "multiclass"
    in_shape = (2,)
    class_names = ("inner", "middle", "outer")

    def __init__(self, points, **settings):
        super().__init__(**settings)
        self.points = points

    def load(self):
        return self.draw(0), self.draw(1)

    def draw(self, seed):
        generator = torch.Generator().manual_seed(seed)
        targets = torch.arange(self.points) % 3
        angle = 6.2832 * torch.rand(self.points, generator=generator)
        return Samples((1 + targets)[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1), targets)
""",
    "conf/model/centres.yaml": "_target_: mine.model.MyModel\nhidden_size: 20\n",
    "conf/data/rings.yaml": """
_target_: mine.data.Rings
points: 300
batch_size: 20
val_size: 0.2
order_seed: ${seed}
""",
    "conf/experiment/tuned.yaml": """
# @package _global_
defaults:
  - override /optimizer: sgd
recipe:
  sgd: {lr: 0.25, momentum: 0.5}
  max_epochs: 2
""",
    "conf/experiment/direct.yaml": """
# @package _global_
defaults:
  - override /optimizer: sgd
optimizer:
  lr: 0.25
trainer:
  max_epochs: 2
""",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with them."""
    for name, content in FILES.items():
        write(tmp_path / name, content)
    return tmp_path


def searchpath(project: Path) -> str:
    return f"hydra.searchpath=[file://{project / 'conf'}]"


def test_custom_model_and_data_train(project: Path) -> None:
    """A custom model and a custom data set train with their own configs."""
    settings = [searchpath(project), "model=centres", "data=rings", "optimizer.lr=0.1", "trainer.max_epochs=10"]
    outcome = train(*settings, cwd=project)
    metrics = outcome.metrics
    assert metrics["parameters"] == 20 * 2 + 20 * 3 + 3
    assert metrics["test/acc"] > 0.95
    assert list(metrics["test/acc_per_class"]) == ["inner", "middle", "outer"]
    assert read_history(outcome.folder)[-1]["train/loss"] < read_history(outcome.folder)[0]["train/loss"] / 2
    assert {path.stem for path in (outcome.folder / "figures").glob("*.png")} == {
        "curves",
        "decision_regions",
        "confusion_matrix",
    }


def test_custom_model_resumes_and_evaluates(project: Path) -> None:
    """A custom model is resumed and evaluated like any other."""
    settings = [searchpath(project), "model=centres", "data=rings"]
    folder = train_bare(*settings, "trainer.max_epochs=2", cwd=project).folder
    longer = train_bare(*settings, "trainer.max_epochs=4", cwd=project).folder
    train(f"resume={folder}", "trainer.max_epochs=4", "trust=mine", cwd=project)
    assert read_history(folder) == read_history(longer)
    evaluate(f"run={folder}", "split=test", "trust=mine", cwd=project)
    assert read_json(folder / "eval_test.json")["test/acc"] == read_json(folder / "metrics.json")["test/acc"]


def test_sweep_of_custom_models_needs_no_trust(project: Path) -> None:
    """A sweep of custom models resumes and draws its figures without the setting trust."""
    panels = "{_target_: src.sweeps.figures.model_grid.ModelGrid, columns: 2, title: own}"
    drawing = (
        f"{{_target_: src.sweeps.figures.callback.DrawFigures, _recursive_: false, pictures: {{panels: {panels}}}}}"
    )
    settings = (searchpath(project), "model=centres", "trainer.max_epochs=1", f"+hydra.callbacks.pictures={drawing}")
    for seeds in ("seed=0", "seed=0,1"):
        outcome = run("src.train", "-m", *BARE, *settings, seeds, "name=own", cwd=project)
        assert outcome.code == 0, outcome.text
    assert "2 jobs: 1 finished before" in outcome.out
    folder = project / "outputs" / "sweeps" / "own"
    assert (folder / "figures" / "panels.png").is_file()
    assert re.search(r"python -m src\.eval run=outputs/sweeps/own/\S+ trust=mine", outcome.out)
    assert "mine.model.MyModel is not trusted" in run("src.compare", str(folder), cwd=project).error
    assert run("src.compare", str(folder), "trust=mine", cwd=project).code == 0


def test_custom_class_takes_other_choices_settings(project: Path) -> None:
    """A custom class can take the settings of another choice."""
    outcome = train_bare("model=mlp", "model._target_=mine.model.Doubled", "trainer.max_epochs=2", cwd=project)
    assert outcome.metrics["parameters"] == 200 * 2 + 200 + 1
    assert read_weights(outcome.folder)["net.centres"].shape == (200, 2)


def test_unknown_custom_setting_is_named(project: Path) -> None:
    """A setting that a custom class does not take is named in one line."""
    settings = [searchpath(project), "model=centres", "+model.width=3"]
    error = run("src.train", *settings, cwd=project).error
    assert "model.width" in error
    assert "mine.model.MyModel has no such setting, did you mean hidden_size?" in error
    error = run("src.train", "data=xor", "model._target_=mine.model.MyModel", cwd=project).error
    hint = "to leave out all settings of a choice, give ~model +model._target_=mine.model.MyModel"
    assert error.endswith(f"mine.model.MyModel has no such setting; {hint}")


def test_unknown_custom_choice_is_named(project: Path) -> None:
    """An unknown choice of a custom group is named in one line, with a suggestion."""
    error = run("src.train", searchpath(project), "model=centers", cwd=project).error
    assert "model=centers: there is no such choice, did you mean centres?; model is one of airbench, " in error
    swept = run("src.train", "-m", searchpath(project), "data=ring,xor", cwd=project).error
    assert "data=ring: there is no such choice, did you mean rings?" in swept


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("data.batch_size=0", "data.batch_size=0 must be a whole number from 1"),
        ("data.val_size=-5", "data.val_size=-5 must be null or a whole number from 0"),
        ("+model.label_smoothing=2", "model.label_smoothing=2 must be a number from 0 to below 1"),
        ("data.pionts=5", "there is no setting data.pionts, did you mean data.points?"),
        ("points=5", "there is no setting points, did you mean data.points?"),
        ("+data.pionts=5", "data.pionts: mine.data.Rings has no such setting, did you mean points?"),
    ],
)
def test_shared_settings_of_custom_classes_are_checked(setting: str, told: str, project: Path) -> None:
    """Settings that custom classes share with the project's own are checked."""
    settings = [searchpath(project), "model=centres", "data=rings", setting]
    assert told in run("src.train", *BARE, *settings, cwd=project).error


def test_plain_data_module_batch_size_is_checked(project: Path) -> None:
    plain = "from lightning import LightningDataModule\nclass Plain(LightningDataModule):\n"
    write(project / "mine" / "plain.py", f"{plain}    def __init__(self, batch_size, noise): ...\n")
    settings = ["data._target_=mine.plain.Plain", "data.batch_size=0", "data.noise=-1"]
    error = run("src.train", *BARE, *settings, cwd=project).error
    assert "data.batch_size=0 must be" in error and "noise" not in error  # what that means is the class's own affair


def test_checkpoint_loads_in_python(project: Path) -> None:
    """A run's checkpoint can be loaded with load_from_checkpoint."""
    outcome = train_bare("model.hidden_size=[5,4]", "trainer.max_epochs=1", cwd=project)
    model = MLP.load_from_checkpoint(outcome.folder / "checkpoints" / "best.ckpt")
    assert sum(parameter.numel() for parameter in model.parameters()) == outcome.metrics["parameters"] == 44
    assert (model.in_shape, model.task) == ((2,), "binary")


# Values that belong together


def optimizer(outcome: Outcome) -> dict[str, float]:
    """The settings that the optimizer had in the end."""
    states = load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")["optimizer_states"]
    group: dict[str, float] = states[0]["param_groups"][0]
    return group


def test_preset_sets_its_optimizers_values(project: Path) -> None:
    """The optimizer that a preset chooses has the preset's values."""
    outcome = train_bare(searchpath(project), "experiment=tuned", cwd=project)
    assert (optimizer(outcome)["lr"], optimizer(outcome)["momentum"]) == (0.25, 0.5)
    assert outcome.metrics["epochs"] == 2


def test_other_optimizer_ignores_preset_values(project: Path) -> None:
    """An optimizer that replaces the one of a preset has its own values."""
    outcome = train_bare(searchpath(project), "experiment=tuned", "optimizer=adam", cwd=project)
    assert optimizer(outcome)["lr"] == 0.01  # XOR's own for Adam
    assert "momentum" not in optimizer(outcome)
    assert outcome.metrics["epochs"] == 2


def test_command_line_overrides_preset(project: Path) -> None:
    outcome = train_bare(
        searchpath(project), "experiment=tuned", "optimizer.lr=0.125", "trainer.max_epochs=1", cwd=project
    )
    assert (optimizer(outcome)["lr"], optimizer(outcome)["momentum"]) == (0.125, 0.5)
    assert outcome.metrics["epochs"] == 1


def test_preset_value_for_other_optimizer_is_refused(project: Path) -> None:
    """A value that a preset sets for another optimizer is refused unless the command line sets it too."""
    error = run("src.train", searchpath(project), "experiment=direct", "optimizer=adam", cwd=project).error
    for words in ("experiment=direct", "optimizer.lr", "optimizer=sgd", "optimizer=adam", "recipe.sgd"):
        assert words in error
    given = train_bare(searchpath(project), "experiment=direct", "optimizer=adam", "optimizer.lr=0.005", cwd=project)
    assert optimizer(given)["lr"] == 0.005
    kept = train_bare(searchpath(project), "experiment=direct", cwd=project)
    assert optimizer(kept)["lr"] == 0.25


def test_data_recipe_follows_the_optimizer(tmp_path: Path) -> None:
    """The recipe of a data set has a learning rate for each optimizer."""
    rates = {}
    for name in ("adam", "adamw", "sgd"):
        rates[name] = optimizer(train_bare(f"optimizer={name}", "trainer.max_epochs=1", cwd=tmp_path))["lr"]
    assert rates == {"adam": 0.01, "adamw": 0.01, "sgd": 0.1}


def test_project_folder_may_contain_spaces(project: Path) -> None:
    spaced = project / "a folder, and more"
    spaced.mkdir()
    outcome = train_bare("trainer.max_epochs=1", "name=here", cwd=spaced)
    assert outcome.folder == spaced / "outputs" / "runs" / "here"
    train(f"resume='{outcome.folder}'", "trainer.max_epochs=2", cwd=spaced)
    assert outcome.metrics["epochs"] == 2
    assert os.listdir(spaced) == ["outputs"]
