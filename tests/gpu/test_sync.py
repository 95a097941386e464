"""Between two looks at the losses nothing waits for the device: the host runs ahead of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from src.models.base import SupervisedModule
from tests.command_line import images, quick

pytestmark = pytest.mark.gpu
WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select")  # on a GPU they would wait for it
KINDS = {
    "mlp": ("model=mlp",),
    "cnn": ("model=cnn", "data.flip=true", "data.crop=2", "data.cutout=4"),
    "clipped": ("model=cnn", "trainer.gradient_clip_val=1", "scheduler=cosine", "optimizer=sgd"),
    "resnet18": ("model=resnet18", "model.stem=imagenet", "trainer.precision=bf16-mixed"),
}


class Refusing(TorchDispatchMode):
    """Stands in for a GPU's own check on the CPU: refuses what reads a tensor's values."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(function).startswith(WAITING):
            raise RuntimeError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@contextmanager
def refusing(device: str) -> Iterator[None]:
    """Whatever waits for the device raises."""
    if device == "cpu":
        with Refusing():
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
    step, look, steps = SupervisedModule.step_loss, SupervisedModule.look_at_losses, []
    under_way: list[Any] = []  # the check, while it lasts

    def end() -> None:
        while under_way:
            under_way.pop().__exit__(None, None, None)

    def watched(model: Any, *batch: Any) -> Any:
        if not under_way and model.current_epoch:  # in the first epoch libraries choose how to calculate
            under_way.append(refusing(device))
            under_way[0].__enter__()
        steps.append(len(under_way))
        return step(model, *batch)

    def looked(model: Any) -> None:
        end()
        look(model)

    monkeypatch.setattr(SupervisedModule, "step_loss", watched)
    monkeypatch.setattr(SupervisedModule, "look_at_losses", looked)
    every = ("trainer.log_every_n_steps=4", "trainer.max_epochs=2", "data.train_size=128")
    settings = [*images("cifar10", data_dir), *KINDS[kind], *every, trainer]
    try:
        quick(*settings, cwd=tmp_path)
    finally:
        end()
    assert sum(steps) == 8  # all of the second epoch's
