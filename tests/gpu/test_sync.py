"""Between two looks at the losses nothing waits for the device: the host runs ahead of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from src.models.base import SupervisedModule
from tests.command_line import get_small_image_settings, train_bare

pytestmark = pytest.mark.gpu
SYNC_OPERATIONS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select")  # on a GPU they would wait for it
STEPS = 8  # of an epoch
WARMUP_EPOCHS = 2  # epochs in which kernels are chosen and small steps recorded
KINDS = {
    "mlp": ("model=mlp",),
    "cnn": ("model=cnn", "data.flip=true", "data.crop=2", "data.cutout=4"),
    "clipped": ("model=cnn", "trainer.gradient_clip_val=1", "scheduler=cosine", "optimizer=sgd"),
    "resnet18": ("model=resnet18", "model.stem=imagenet", "trainer.precision=bf16-mixed"),
}


class SyncGuard(TorchDispatchMode):
    """Stands in for a GPU's own check on the CPU: refuses what reads a tensor's values."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(function).startswith(SYNC_OPERATIONS):
            raise RuntimeError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@contextmanager
def forbid_sync(device: str) -> Iterator[None]:
    """Whatever waits for the device raises."""
    if device == "cpu":
        with SyncGuard():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_waits_for_the_device(
    kind: str, device: str, data_dir: Path, trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, look = SupervisedModule.training_step, SupervisedModule.log_losses
    checks: list[Any] = []  # the check, while it lasts
    watched: list[int] = []  # how many steps there were in each

    def begin(model: Any) -> None:
        if not checks and model.current_epoch >= WARMUP_EPOCHS and model.logged_batches < STEPS:
            checks.append(forbid_sync(device))
            checks[0].__enter__()

    def end() -> None:
        while checks:
            checks.pop().__exit__(None, None, None)

    def first_step(model: Any, *batch: Any) -> Any:
        begin(model)
        return step(model, *batch)

    def watch_until_here(model: Any) -> None:
        watched.extend([len(model.pending_batches)] if checks else [])
        end()
        look(model)
        begin(model)

    monkeypatch.setattr(SupervisedModule, "training_step", first_step)
    monkeypatch.setattr(SupervisedModule, "log_losses", watch_until_here)
    every = (f"trainer.log_every_n_steps={STEPS // 2}", "trainer.max_epochs=4", f"data.train_size={16 * STEPS}")
    try:
        train_bare(*get_small_image_settings("cifar10", data_dir), *KINDS[kind], *every, trainer, cwd=tmp_path)
    finally:
        end()
    assert watched == [STEPS // 2] * 2 * (4 - WARMUP_EPOCHS)
