"""What a run on the GPU promises: the same again, mixed precision, compiled steps, errors in one line."""

from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from tests.command_line import (
    BARE,
    get_small_image_settings,
    is_identical,
    read_history,
    read_json,
    read_weights,
    run,
    train_bare,
)
from tests.course.presets import Begun

pytestmark = pytest.mark.gpu
RESUMED = {
    "mlp": ("data=xor", "model.dropout=0.2", "optimizer=adam"),
    "cnn": ("model=cnn", "data.flip=true", "data.crop=2", "data.cutout=4", "scheduler=cosine", "optimizer=adamw"),
    "resnet18": ("model=resnet18", "trainer.precision=bf16-mixed", "data.train_size=32", "optimizer=sgd"),
}
RATE, CLIP = 1.0, 0.01


class MemoryExhaustion(Callback):
    """Asks for more memory than any device has, as an epoch begins."""

    SETTING = "+callbacks.exhaust._target_=tests.gpu.test_runs.MemoryExhaustion"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.empty(2**46, dtype=torch.uint8, device=pl_module.device)


@pytest.mark.parametrize("kind", RESUMED)
def test_deterministic_runs_repeat_and_resume_exactly(kind: str, data_dir: Path, trainer: str, tmp_path: Path) -> None:
    data = [] if kind == "mlp" else get_small_image_settings("cifar10", data_dir)
    settings = (*data, *RESUMED[kind], trainer, "deterministic=true", "seed=3")
    straight = train_bare(*settings, "trainer.max_epochs=3", cwd=tmp_path).folder
    parted = train_bare(
        *settings, "trainer.max_epochs=2" if kind != "cnn" else "trainer.max_epochs=3", cwd=tmp_path
    ).folder
    if kind != "cnn":  # a schedule made for a number of steps cannot be given more
        resumed = run("src.train", f"resume={parted}", "trainer.max_epochs=3", cwd=tmp_path)
        assert resumed.code == 0, resumed.text
    assert is_identical(read_weights(straight), read_weights(parted)) and read_history(straight) == read_history(parted)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_gradients_are_clipped_after_unscaling(
    precision: str, device: str, data_dir: Path, trainer: str, tmp_path: Path
) -> None:
    """Gradients are clipped after mixed precision has scaled them back."""
    data = (
        *get_small_image_settings("mnist", data_dir),
        "model=mlp",
        "model.init=normal",
        "model.init_std=0.01",
    )  # float16 bears it
    settings = (*data, "optimizer=sgd", f"optimizer.lr={RATE}", "trainer.max_steps=1")
    clipped = (*settings, "optimizer.momentum=0", trainer, f"trainer.gradient_clip_val={CLIP}", Begun.SETTING)
    if (precision, device) == ("16-mixed", "cpu"):
        refused = run("src.train", *BARE, *clipped, f"trainer.precision={precision}", cwd=tmp_path)
        assert refused.error.startswith("error: trainer.precision=16-mixed needs a GPU")
        return
    outcome = train_bare(*clipped, f"trainer.precision={precision}", cwd=tmp_path)
    steps = [read_weights(outcome.folder)[name] - before.cpu() for name, before in Begun.last.start.items()]
    length = torch.cat([step.flatten() for step in steps]).norm()
    assert float(length) == pytest.approx(RATE * CLIP, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_learns_what_float32_does(
    precision: str, device: str, data_dir: Path, trainer: str, tmp_path: Path
) -> None:
    if device == "cpu":
        precision = "bf16-mixed"
    settings = (
        *get_small_image_settings("mnist", data_dir),
        "model=cnn",
        trainer,
        "trainer.max_epochs=4",
        "trainer.gradient_clip_val=1",
    )
    plain, mixed = (
        train_bare(*settings, f"trainer.precision={each}", cwd=tmp_path).metrics for each in ("32-true", precision)
    )
    assert mixed["train/loss"] == pytest.approx(plain["train/loss"], rel=0.1, abs=0.05)
    assert mixed["test/acc"] == pytest.approx(plain["test/acc"], abs=0.1)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_steps_match_plain_steps(mode: str, trainer: str, tmp_path: Path) -> None:
    """Compiled steps equal plain ones up to rounding."""
    settings = ("optimizer=sgd", "model.hidden_size=5", "data.batch_size=7", trainer, "trainer.max_epochs=3")
    fast = train_bare(*settings, f"compile={mode}", cwd=tmp_path)
    plain = train_bare(*settings, cwd=tmp_path)
    for one, other in zip(read_history(fast.folder), read_history(plain.folder), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert 0 < fast.metrics["compile_seconds"] < fast.metrics["seconds"]


def test_diverged_loss_is_reported(trainer: str, tmp_path: Path) -> None:
    """A loss that becomes NaN or infinite ends the run with an error in one line."""
    outcome = run("src.train", *BARE, trainer, "optimizer=sgd", "optimizer.lr=1e30", cwd=tmp_path)
    assert "the loss became nan at step" in outcome.error or "the loss became inf at step" in outcome.error
    assert read_json(outcome.folder / "status.json")["reason"] == "diverged"


def test_out_of_memory_is_reported(trainer: str, tmp_path: Path) -> None:
    """A run that needs more memory than the device has ends in one line, and the next run has it all."""
    outcome = run("src.train", *BARE, trainer, MemoryExhaustion.SETTING, cwd=tmp_path)
    assert outcome.error.startswith("error: there is not enough memory (PyTorch asked for")
    assert read_json(outcome.folder / "status.json")["reason"] == "out of memory"
    assert train_bare(trainer, "trainer.max_epochs=1", cwd=tmp_path).code == 0  # the next one has it all
