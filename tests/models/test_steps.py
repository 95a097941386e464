"""Steps taken in chunks are those taken one by one, bit for bit, counted and logged alike."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.command_line import (
    BARE,
    NO_FIGURES,
    BatchRecorder,
    Outcome,
    drop_overridden,
    drop_seconds,
    get_small_image_settings,
    is_identical,
    load_checkpoint,
    read_history,
    read_json,
    run,
    train,
    train_bare,
)

IN_CHUNKS = "steps: in chunks"
STOCHASTIC_SETTINGS = (
    "model.hidden_size=[8,8]",
    "model.dropout=0.2",
    "model.batch_norm=true",
    "data.noise=0.3",
    "seed=3",
)


def read_step_mode(folder: Path) -> str:
    """How a run took its steps, from its log."""
    return next(line for line in (folder / "train.log").read_text().splitlines() if "steps: " in line)


def train_in_both_modes(*overrides: str, cwd: Path) -> tuple[Outcome, Outcome]:
    """A run in chunks, and the same with a callback that must see each step."""
    chunks, single = train_bare(*overrides, cwd=cwd), train_bare(*overrides, BatchRecorder.SETTING, cwd=cwd)
    assert IN_CHUNKS in read_step_mode(chunks.folder) and "one by one, because of BatchRecorder" in read_step_mode(
        single.folder
    )
    return chunks, single


def assert_same_training(first: Path, second: Path) -> None:
    """All that training leaves; losses are summed in the same groups, so that they agree to the bit as well."""
    one, two = [load_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (first, second)]
    assert (one["epoch"], one["global_step"]) == (two["epoch"], two["global_step"])
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert is_identical(one[part], two[part]), part
    assert read_history(first) == read_history(second)
    assert drop_seconds(read_json(first / "metrics.json")) == drop_seconds(read_json(second / "metrics.json"))


@pytest.mark.parametrize(
    "settings",
    [
        ("optimizer=sgd", "data.batch_size=1"),
        ("optimizer=adam", "data.batch_size=7"),
        ("optimizer=adamw", "scheduler=exponential"),
        ("optimizer=muon", "scheduler=exponential", "+scheduler.frequency=2"),
        ("optimizer=lbfgs", "optimizer.max_iter=3"),
        ("scheduler=one_cycle", "data.batch_size=8"),
        ("optimizer=sgd", "scheduler=exponential", "scheduler.interval=step", "+scheduler.frequency=3"),
        ("trainer.precision=bf16-mixed", "optimizer=muon"),
        ("data.batch_size=8", "data.drop_last=true", "data.shuffle=false"),
        ("data.batch_size=2", "trainer.log_every_n_steps=7"),
    ],
    ids=lambda settings: " ".join(settings),
)
def test_chunks_match_single_steps(settings: tuple[str, ...], tmp_path: Path) -> None:
    """Training in chunks gives the same run as training step by step."""
    lively = [item for item in STOCHASTIC_SETTINGS if not ("batch_size=1" in settings[-1] and "batch_norm" in item)]
    chunks, single = train_in_both_modes(*lively, *settings, "trainer.max_epochs=3", cwd=tmp_path)
    assert_same_training(chunks.folder, single.folder)


def test_chunks_keep_augmented_images(data_dir: Path, tmp_path: Path) -> None:
    lively = ("model=cnn", "model.channels=[4]", "data.flip=true", "data.crop=3", "data.cutout=4")
    chunks, single = train_in_both_modes(
        *get_small_image_settings("cifar10", data_dir), *lively, "trainer.max_epochs=2", cwd=tmp_path
    )
    assert_same_training(chunks.folder, single.folder)


@pytest.mark.parametrize("shuffle", ["true", "false"])
def test_chunks_keep_rounding_of_sums(shuffle: str, data_dir: Path, tmp_path: Path) -> None:
    """Sums over many inputs are rounded in the same way wherever a batch lies in memory."""
    settings = (
        *get_small_image_settings("mnist", data_dir),
        f"data.shuffle={shuffle}",
        "data.batch_size=7",
        "trainer.max_epochs=2",
    )
    chunks, single = train_in_both_modes(*settings, "model.hidden_size=13", cwd=tmp_path)
    assert_same_training(chunks.folder, single.folder)


def test_chunked_run_resumes_exactly(tmp_path: Path) -> None:
    """A run in chunks is resumed exactly, both in chunks and step by step."""
    settings = (*STOCHASTIC_SETTINGS, "scheduler=exponential", "optimizer=sgd")
    straight = train_bare(*settings, "trainer.max_epochs=4", cwd=tmp_path)
    for how in ((), (BatchRecorder.SETTING,)):
        parted = train_bare(*settings, "trainer.max_epochs=2", cwd=tmp_path)
        resumed = run("src.train", f"resume={parted.folder}", "trainer.max_epochs=4", *how, cwd=tmp_path)
        assert resumed.code == 0, resumed.text
        assert_same_training(straight.folder, parted.folder)


@pytest.mark.parametrize("schedule", ["exponential", "one_cycle"])
def test_chunks_log_at_same_steps(schedule: str, tmp_path: Path) -> None:
    """Losses and learning rates are logged at the same steps whether or not steps are taken in chunks."""
    settings = ("data.batch_size=4", "trainer.max_epochs=3", "trainer.log_every_n_steps=10", f"scheduler={schedule}")
    logged = []
    for how in ((), (BatchRecorder.SETTING,)):
        folder = train(*settings, *NO_FIGURES, *how, cwd=tmp_path).folder
        events = EventAccumulator(str(folder)).Reload()
        logged.append({tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]})
    assert logged[0] == logged[1]
    assert [step for step, _ in logged[0]["train/loss"]] == [24, 49, 74]
    assert [step for step, _ in logged[0]["train/loss_step"]] == [9, 19, 24, 34, 44, 49, 59, 69, 74]


def test_chunks_report_diverged_step(tmp_path: Path) -> None:
    """In chunks, too, the error for a loss that is not finite names the step of that loss."""
    settings = ("optimizer=sgd", "optimizer.lr=1e38", "data.batch_size=2", "callbacks=none", "logger=none")
    chunks = run("src.train", *settings, cwd=tmp_path).error
    assert chunks == run("src.train", *settings, BatchRecorder.SETTING, cwd=tmp_path).error
    assert "at step" in chunks


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("trainer.accumulate_grad_batches=2", "gradient accumulation"),
        ("trainer.gradient_clip_val=1.0", "gradient clipping"),
        ("trainer.max_steps=7", "a number of steps or batches"),
        ("trainer.limit_train_batches=3", "a number of steps or batches"),
        ("trainer.limit_train_batches=1", "a number of steps or batches"),
        ("+trainer.val_check_interval=1", "a number of steps or batches"),
        ("+trainer.min_steps=3", "a number of steps or batches"),
        ("trainer.precision=64-true", "precision 64-true"),
        ("model.hidden_size=[3000,3000]", "their size, compared with which Lightning's overhead is small"),
        ("trainer.overfit_batches=1", "a number of steps or batches"),
        ("trainer.log_every_n_steps=1", "the loss of each step"),
        ("trainer.profiler=simple", "a profiler"),
        ("scheduler=plateau", "a schedule that watches a metric"),
        ("+callbacks.ema={_target_:lightning.pytorch.callbacks.EMAWeightAveraging}", "EMAWeightAveraging"),
        ("callbacks=descent", "Descent"),
        ("callbacks=gradients", "GradientNorms"),
    ],
)
def test_settings_can_prevent_chunks(setting: str, reason: str, tmp_path: Path) -> None:
    """Settings and callbacks that need each step turn off chunks, and the log says why."""
    light = ("optimizer=sgd", "optimizer.momentum=0", "trainer.max_epochs=1", "test=false")
    undrawn = NO_FIGURES if setting.startswith("callbacks=") else ()
    folder = train(*drop_overridden(*BARE, setting), *light, *undrawn, cwd=tmp_path).folder
    assert read_step_mode(folder).endswith(f"steps: one by one, because of {reason}")


class PaddedGradient(torch.autograd.Function):
    """The identity, whose gradient has padded rows, as torch.compile may leave it on a GPU."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:
        return weight.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(gradient, (0, 3))[..., :-3]


class PaddedLinear(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, PaddedGradient.apply(self.weight), self.bias)


class PaddedGradients(Callback):
    """Puts layers with padded gradients in the place of the network's own."""

    SETTING = "+callbacks.padded._target_=tests.models.test_steps.PaddedGradients"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for layer in pl_module.modules():
            if type(layer) is torch.nn.Linear:
                layer.__class__ = PaddedLinear


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_gradients_have_their_weights_layout(optimizer: str, tmp_path: Path) -> None:
    """Fused optimisers read a gradient as if it lay in memory like its weight."""
    settings = (f"optimizer={optimizer}", "data.batch_size=8", "trainer.max_epochs=3")
    padded = train_bare(*settings, PaddedGradients.SETTING, cwd=tmp_path)
    assert IN_CHUNKS in read_step_mode(padded.folder)
    assert_same_training(padded.folder, train_bare(*settings, cwd=tmp_path).folder)


class StepHookCounter(Callback):
    """Has the optimiser itself tell of each step, as libraries do that know nothing of Lightning."""

    SETTING = "+callbacks.hooked._target_=tests.models.test_steps.StepHookCounter"
    steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        StepHookCounter.steps = 0
        trainer.optimizers[0].register_step_post_hook(self.count)

    def count(self, *_: object) -> None:
        StepHookCounter.steps += 1


def test_optimizer_hooks_see_each_step(tmp_path: Path) -> None:
    """Hooks on the optimizer are called for each step of a chunk."""
    hooked = train_bare("data.batch_size=8", "trainer.max_epochs=3", StepHookCounter.SETTING, cwd=tmp_path)
    assert IN_CHUNKS in read_step_mode(hooked.folder) and StepHookCounter.steps == 3 * 13  # of 100 points
    assert_same_training(hooked.folder, train_bare("data.batch_size=8", "trainer.max_epochs=3", cwd=tmp_path).folder)
