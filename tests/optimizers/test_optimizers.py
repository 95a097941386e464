"""Optimisers, schedules, clipping and precisions from the command line: what is asked for is done, or refused."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import lr_scheduler

from src.core.errors import InputError
from src.models.mlp import MLP
from tests.command_line import BatchRecorder, read_history, run, train, train_bare
from tests.models.test_steps import IN_CHUNKS, assert_same_training, read_step_mode
from tests.training.test_resume import assert_the_same_run

FUNCTION = ("scheduler=exponential", "scheduler._target_=torch.optim.lr_scheduler.LambdaLR", "~scheduler.gamma")
PLAIN = ("optimizer=sgd", "optimizer.momentum=0", "optimizer.lr=1", "trainer.limit_train_batches=3")
ONE_EPOCH = "trainer.max_epochs=1"


class StepLengths(Callback):
    """Keeps how far each step goes: the norm of the change and its largest part."""

    SETTING = "+callbacks.lengths._target_=tests.optimizers.test_optimizers.StepLengths"
    steps: ClassVar[list[tuple[float, float]]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        StepLengths.steps, self.before = [], self.weights(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        now = self.weights(pl_module)
        change, self.before = now - self.before, now
        StepLengths.steps.append((float(change.norm()), float(change.abs().max())))

    def weights(self, module: LightningModule) -> Tensor:
        return torch.cat([weight.detach().double().flatten() for weight in module.parameters()])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradient_clipping_limits_steps(precision: str, tmp_path: Path) -> None:
    """Gradients are clipped by norm and by value in each precision."""
    settings = (*PLAIN, ONE_EPOCH, f"trainer.precision={precision}", StepLengths.SETTING)
    train_bare(*settings, cwd=tmp_path)
    assert min(length for length, _ in StepLengths.steps) > 0.02
    train_bare(*settings, "trainer.gradient_clip_val=0.01", cwd=tmp_path)
    assert [length for length, _ in StepLengths.steps] == pytest.approx([0.01] * 3, rel=1e-3)
    value = ("trainer.gradient_clip_val=0.003", "+trainer.gradient_clip_algorithm=value")
    train_bare(*settings, *value, cwd=tmp_path)
    assert [part for _, part in StepLengths.steps] == pytest.approx([0.003] * 3, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "lbfgs", "muon", "nadam", "rmsprop"])
def test_optimizers_learn_with_bfloat16_clipping(optimizer: str, tmp_path: Path) -> None:
    """Each optimizer learns with clipped gradients in bfloat16."""
    settings = ("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.1", "trainer.max_epochs=3")
    rows = read_history(train_bare(f"optimizer={optimizer}", *settings, cwd=tmp_path).folder)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_custom_fused_optimizer_is_clipped(tmp_path: Path) -> None:
    """Gradients are also clipped for a fused optimizer that the model builds itself."""
    settings = (
        "model._target_=tests.optimizers.test_optimizers.FusedModel",
        "trainer.precision=bf16-mixed",
        StepLengths.SETTING,
    )
    train_bare(*settings, "trainer.gradient_clip_val=0.01", "trainer.max_epochs=1", cwd=tmp_path)
    assert [length for length, _ in StepLengths.steps] == pytest.approx([0.01] * 10, rel=1e-3)


class FusedModel(MLP):
    """Makes its optimiser by itself."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0, fused=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed needs a GPU: on the CPU use bf16-mixed"),
        (["+trainer.gradient_clip_algorithm=value"], "without trainer.gradient_clip_val"),
        (["optimizer=lbfgs", "trainer.precision=16-true"], "LBFGS does not work in float16; use 32-true"),
        (
            ["optimizer=nadam", "trainer.precision=16-true"],
            "NAdam would divide by 0, since optimizer.eps=1e-08 is 0 in float16",
        ),
        (["optimizer._target_=torch.optim.SparseAdam", "~optimizer.weight_decay"], "works with sparse gradients only"),
        (["optimizer=lbfgs", "trainer.accumulate_grad_batches=2"], "LBFGS evaluates a batch several times"),
        (["optimizer._target_=torch.optim.LBFGS"], "leave out: '~optimizer.betas' '~optimizer.weight_decay'"),
        (["optimizer._target_=torch.optim.RMSprop"], "optimizer.betas: torch.optim.RMSprop has no such setting"),
        (["optimizer=rmsprop", "+optimizer.fused=true"], "optimizer.fused: torch.optim.RMSprop has no such setting"),
        (["optimizer._target_=torch.load"], "torch.load does not take these settings"),
        (["scheduler=plateau", "scheduler.factor=1"], "scheduler.factor=1: torch.optim.lr_scheduler.ReduceLROnPlateau"),
        (["optimizer=lbfgs", "scheduler=one_cycle"], "set scheduler.cycle_momentum=false"),
        (["scheduler=cosine", "+trainer.max_time=00:01:00:00"], "under trainer.max_time total_steps is not known"),
        ([*FUNCTION, "+scheduler.lr_lambda=math.sqrt"], "LambdaLR: its functions cannot be saved in a checkpoint"),
        (["scheduler=cosine", "+scheduler.last_epoch=5"], "CosineAnnealingLR does not take these settings: "),
        (["scheduler=cosine", "scheduler._target_=torch.optim.lr_scheduler.LRScheduler"], "scheduler.T_max"),
        (["scheduler=plateau", "data.val_size=0"], "scheduler.monitor: there is no validation set"),
        (["scheduler=plateau", "+scheduler.interval=step"], "scheduler.interval=step: val/acc is not measured at each"),
        (["scheduler=exponential", "+scheduler.monitor=val/loss"], "ExponentialLR watches no metric"),
        (
            ["scheduler=plateau", "+scheduler.frequency=3", "trainer.check_val_every_n_epoch=2"],
            "scheduler.frequency=3: val/acc is measured every 2 epochs",
        ),
    ],
    ids=lambda settings: " ".join(settings) if isinstance(settings, list) else "",
)
def test_incompatible_settings_are_refused(settings: list[str], words: str, tmp_path: Path) -> None:
    """Incompatible settings end in an error of one line and leave no checkpoint."""
    outcome = run("src.train", "callbacks=none", "logger=none", *settings, cwd=tmp_path)
    assert words in outcome.error
    assert not list(tmp_path.rglob("*.ckpt"))


ACCUMULATION = "+callbacks.parts={_target_:lightning.pytorch.callbacks.GradientAccumulationScheduler,scheduling:{4:2}}"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.reduction=sum"], "model.reduction=sum adds up the samples of one batch: over 2 accumulated batches"),
        (["trainer.accumulate_grad_batches=3"], "GradientAccumulationScheduler sets it too"),
        (["scheduler=cosine"], "under GradientAccumulationScheduler total_steps is not known"),
    ],
)
def test_accumulation_callback_is_validated(settings: list[str], words: str, tmp_path: Path) -> None:
    """Gradient accumulation by a callback is checked before training."""
    assert words in run("src.train", "callbacks=none", ACCUMULATION, *settings, cwd=tmp_path).error


def test_repeated_evaluation_works_in_chunks(tmp_path: Path) -> None:
    """In a chunk, too, an optimizer may evaluate a batch twice."""
    settings = ("optimizer=sgd", "data.noise=0.3", "trainer.max_epochs=2")
    twice = ("optimizer._target_=tests.models.test_optimizing.TwiceEvaluatingSGD", "optimizer.fused=false")
    once = train_bare(*settings, "optimizer.fused=false", cwd=tmp_path)
    chunks = train_bare(*settings, *twice, cwd=tmp_path)
    single = train_bare(*settings, *twice, BatchRecorder.SETTING, cwd=tmp_path)
    assert IN_CHUNKS in read_step_mode(chunks.folder)
    assert_same_training(once.folder, chunks.folder)
    assert_same_training(once.folder, single.folder)


# Going on exactly


class SingleFailure(Callback):
    """Ends a run at the beginning of its fourth epoch, once."""

    SETTING = "+callbacks.fail._target_=tests.optimizers.test_optimizers.SingleFailure"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        mark = Path(trainer.default_root_dir) / "has_failed"
        if trainer.current_epoch == 3 and not mark.exists():
            mark.touch()
            raise InputError("stopped in the fourth epoch")


def shrink(step: int) -> float:
    return 0.8**step


def make_steps(optimizer: torch.optim.Optimizer, every: int) -> lr_scheduler.LRScheduler:
    return lr_scheduler.StepLR(optimizer, every, gamma=0.5)


PLATEAU = ("scheduler=plateau", "scheduler.patience=0", "scheduler.factor=0.5")
SEQUENCE = (
    "+scheduler._target_=torch.optim.lr_scheduler.SequentialLR",
    "+scheduler.interval=step",
    "+scheduler.milestones=[8]",
    "+scheduler.schedulers=[{_target_:torch.optim.lr_scheduler.LinearLR,total_iters:total_steps},"
    "{_target_:torch.optim.lr_scheduler.CosineAnnealingLR,T_max:total_steps}]",
)
FACTORY = (
    "scheduler=exponential",
    "scheduler._target_=tests.optimizers.test_optimizers.make_steps",
    "~scheduler.gamma",
)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        (("optimizer=muon", *PLATEAU, "optimizer.lr=1e-6"), [1, 1, 0.5, 0.25, 0.125, 0.0625]),
        (("optimizer=sgd", *PLATEAU, "scheduler.monitor=train/loss", "scheduler.mode=max"), None),
        (("optimizer=rmsprop", "scheduler=warmup_cosine"), None),
        (
            ("optimizer=lbfgs", *FUNCTION, "+scheduler.lr_lambda=tests.optimizers.test_optimizers.shrink"),
            [0.8**n for n in range(6)],
        ),
        (("optimizer=nadam", *FACTORY, "+scheduler.every=2"), [1, 1, 0.5, 0.5, 0.25, 0.25]),
        (("optimizer=sgd", *SEQUENCE), None),
    ],
    ids=["plateau", "plateau by another metric", "warmup_cosine", "a function", "a factory", "a sequence"],
)
def test_schedules_resume_exactly(settings: tuple[str, ...], rates: list[float] | None, tmp_path: Path) -> None:
    """With each schedule a resumed run equals one without interruption."""
    settings = (*settings, "trainer.max_epochs=6", "data.noise=0.3", "model.dropout=0.2")
    whole = train_bare(*settings, BatchRecorder.SETTING, "name=whole", cwd=tmp_path).folder
    if rates:
        each = BatchRecorder.last.rates[::10]
        assert [rate / each[0] for rate in each] == pytest.approx(rates)
    stopped = run(
        "src.train", "callbacks=none", "logger=none", *settings, SingleFailure.SETTING, "name=parted", cwd=tmp_path
    )
    assert "stopped in the fourth epoch" in stopped.error
    train(f"resume={stopped.folder}", cwd=tmp_path)
    assert_the_same_run(stopped.folder, whole)
