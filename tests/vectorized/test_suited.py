"""Which jobs are not trained together, and the reason that is told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from torch import Tensor, nn

from src.data.loading.samples import Samples
from src.data.toy import XOR
from src.models.mlp import MLP
from src.vectorized.batches import has_augmentation
from src.vectorized.eligibility import check_eligibility
from tests.command_line import BARE, isolate_process_state
from tests.course.presets import composed

STOPPING = "callbacks=early_stopping"


def find_reason(*settings: str, cwd: Path) -> str | None:
    """Why jobs with these settings are not trained together."""
    with isolate_process_state("src.train", (), cwd):
        config = composed(*BARE, "trainer=cpu", *settings)
        HydraConfig.instance().set_config(config)
        return check_eligibility(config, processes=1).reason


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["seed=null"], "seed=null"),
        (["compile=default"], "compile=default"),
        (["deterministic=true"], "deterministic=true"),
        (["ema=0.9"], "ema=0.9"),
        (["data=mnist", "data.cutmix=1"], "data.mixup or data.cutmix"),
        (["metrics=[f1,mcc]"], "metrics=[f1,mcc]"),
        (["model.class_weights=balanced"], "model.class_weights=balanced"),
        (["trainer.max_steps=5"], "trainer.max_steps=5"),
        (["trainer.precision=bf16-mixed"], "trainer.precision=bf16-mixed"),
        (["trainer.limit_val_batches=1"], "trainer.limit_val_batches=1"),
        (["+trainer.min_epochs=3"], "trainer.min_epochs=3"),
        (["+optimizer.amsgrad=true"], "optimizer.amsgrad"),
        (["optimizer=rmsprop"], "optimizer.alpha"),
        (["optimizer=muon"], "optimizer src.optimizers.muon.Muon"),
        (["scheduler=plateau"], "a scheduler that needs a metric"),
        (["scheduler=cosine", "+scheduler.frequency=2"], "scheduler.frequency"),
        (
            ["scheduler=exponential", "scheduler._target_=tests.optimizers.test_optimizers.make_steps"],
            "scheduler tests.optimizers.test_optimizers.make_steps, a function",
        ),
        (
            ["+scheduler._target_=torch.optim.lr_scheduler.LambdaLR", "+scheduler.lr_lambda=math.sqrt"],
            "scheduler.lr_lambda",
        ),
        (["model.products=true"], "MLP with PairwiseProducts in it"),
        (["callbacks=default", "+callbacks.learning_rate.logging_interval=step"], "callbacks.learning_rate"),
        (["callbacks=gradients"], "callbacks.gradient_norms"),
        (["experiment=descent", "callbacks=descent"], "callbacks.descent"),
        (["logger=tensorboard", "logger.tensorboard.version=a"], "a custom logger"),
        ([STOPPING, "data.val_size=0"], "callbacks.early_stopping without a validation set"),
        ([STOPPING, "callbacks.early_stopping.monitor=train/loss"], "callbacks.early_stopping.monitor=train/loss"),
        (
            [STOPPING, "data=cubic", "callbacks.early_stopping.monitor=val/acc"],
            "callbacks.early_stopping.monitor=val/acc",
        ),
        (["model=cnn", "data=mnist"], "convolutions, which a CPU computes faster for one network at a time"),
        (["model.loss=squared_error"], "an error that each job reports itself"),
    ],
)
def test_reason_for_separate_run_is_given(settings: list[str], told: str, tmp_path: Path) -> None:
    """The setting that needs a separate run is given as the reason."""
    assert str(find_reason(*settings, cwd=tmp_path)).startswith(told)


@pytest.mark.parametrize(
    "settings",
    [
        ["experiment=overfit_batch_norm"],
        ["experiment=overfit_early_stopping"],
        ["experiment=gates"],
        ["model.dropout=0.5", "model.batch_norm=after", "logger=tensorboard", "callbacks=plane"],
        [STOPPING, "callbacks.early_stopping.monitor=val/loss", "callbacks.early_stopping.mode=min"],
        ["model=cnn", "data=mnist", "model.channels=[4,4]", "model.batch_norm=after", "model.hidden_size=[]"],
    ],
)
def test_project_networks_are_stacked(settings: list[str], tmp_path: Path) -> None:
    assert find_reason(*settings, cwd=tmp_path) is None


class Joined(nn.Module):
    """Puts two hidden layers' outputs behind each other, which would part the jobs' values otherwise than widened."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.left(x), self.right(x)], dim=1))


class Added(Joined):
    """Adds them up instead, which treats each value by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.left(x) + self.right(x))


class Shifted(nn.Module):
    """Has a parameter beside its layers', which no stack would know."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.shift = nn.Linear(2, 1), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x - self.shift)


def dropped() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1))


class Own(MLP):
    """With a network of its own."""

    def __init__(self, make: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.net = globals()[make]()


class Starting(MLP):
    """Does something of its own when training starts."""

    def on_train_start(self) -> None:
        self.net.requires_grad_(True)


@pytest.mark.parametrize(
    ("make", "suited"), [("Joined", False), ("Shifted", False), ("dropped", False), ("Added", True)]
)
def test_custom_network_is_stacked_if_equivalent(make: str, suited: bool, tmp_path: Path) -> None:
    """A user-defined network is stacked if the stack computes what the network computes."""
    found = find_reason(f"model._target_={__name__}.Own", f"+model.make={make}", cwd=tmp_path)
    assert found == (None if suited else "Own, whose network computes something outside its layers")


def test_model_with_custom_training_is_refused(tmp_path: Path) -> None:
    """A model that customises its training is not stacked."""
    found = find_reason(f"model._target_={__name__}.Starting", cwd=tmp_path)
    assert found == "Starting, which customises its training"


class Noisy(XOR):
    """Moves its training points at random."""

    def transform(self, inputs: Tensor, augment: bool = False) -> Tensor:
        return inputs + torch.randn_like(inputs) if augment else inputs


class Sorted(XOR):
    """Validates on batches of its own."""

    def val_dataloader(self) -> list[Any]:
        return [Samples(torch.zeros(1, 2), torch.zeros(1))]


def test_custom_augmentation_is_detected() -> None:
    """Data with a `transform` of their own count as augmented."""
    settings: dict[str, Any] = dict.fromkeys(("train_size", "val_size", "test_size"), 8) | {
        "noise": 0.0,
        "batch_size": 4,
    }
    assert has_augmentation(Noisy(**settings))
    assert not has_augmentation(XOR(**settings))


def test_custom_data_loading_is_not_stacked(tmp_path: Path) -> None:
    """Data that load their batches in a custom way are not stacked."""
    found = find_reason(f"data._target_={__name__}.Sorted", cwd=tmp_path)
    assert found == "Sorted, which loads its batches in a custom way"
