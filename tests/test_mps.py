"""Apple's GPUs calculate in no 64-bit floating-point numbers, and their memory is the machine's: nothing is pinned."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.command_line import images, quick

ON_IMAGES = ("data.flip=true", "data.crop=2", "data.cutout=4", "model.dropout=0.1")


class Watch(TorchDispatchMode):
    """Note the operations that make 64-bit floating-point numbers or pin memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += 1
        made = [each.dtype for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        if torch.float64 in made or torch.complex128 in made or "pin_memory" in str(func):
            self.found.append(str(func))
        return result


@pytest.mark.parametrize(
    "settings",
    [
        ("model.batch_norm=true", "model.dropout=0.2", "optimizer=adamw", "scheduler=one_cycle"),
        ("data=cubic", "optimizer=sgd", "scheduler=exponential", "model.l2=0.01"),
        ("data=gate", "optimizer=lbfgs"),
        ("data=fashion_mnist", "model=cnn", "model.label_smoothing=0.1", *ON_IMAGES),
        ("data=cifar10", "model=resnet18", "optimizer=muon", "trainer.gradient_clip_val=1"),
    ],
    ids=lambda settings: " ".join(settings),
)
def test_training_and_testing_take_what_apples_gpus_have(
    settings: tuple[str, ...], data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watch = Watch()
    for name in ("fit", "test"):
        plain = getattr(lightning.Trainer, name)

        def watched(*args: Any, plain: Any = plain, **given: Any) -> Any:
            with watch:
                return plain(*args, **given)

        monkeypatch.setattr(lightning.Trainer, name, watched)
    data = settings[0].removeprefix("data=") if "mnist" in settings[0] or "cifar" in settings[0] else None
    more = images(data, data_dir) if data else []
    quick(*more, *[each for each in settings if each not in more], "trainer.max_epochs=2", cwd=tmp_path)
    assert watch.count > 100
    assert not watch.found
