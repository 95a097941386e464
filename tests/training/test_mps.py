"""Apple's GPUs calculate in no 64-bit floating-point numbers, and their memory is the machine's: nothing is pinned.

Which operations they would leave to the CPU is read from torch's own table of kernels.
"""

from functools import cache
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torchgen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchgen.gen import parse_native_yaml
from torchgen.model import DispatchKey

from src.core import devices
from src.data.loading.samples import Samples
from src.models.mlp import MLP
from src.vectorized import model as stack
from src.vectorized.batches import StackedBatches
from src.vectorized.schedules import Schedules
from tests.command_line import get_small_image_settings, train_bare
from tests.doubles import InMemoryDataModule

ON_IMAGES = ("data.flip=true", "data.crop=2", "data.cutout=4", "model.dropout=0.1")


class Watch(TorchDispatchMode):
    """Note the operations that make 64-bit floating-point numbers or pin memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations: set[str] = set()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += 1
        if func.namespace == "aten":
            self.operations.add(func.name().removeprefix("aten::"))
        made = [each.dtype for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        if torch.float64 in made or torch.complex128 in made or "pin_memory" in str(func):
            self.found.append(str(func))
        return result


@cache
def kernels() -> tuple[dict[str, Any], list[Any]]:
    """Return torch's operations by name, and the kernels of each kind that MPS can take."""
    folder = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native"
    table = parse_native_yaml(str(folder / "native_functions.yaml"), str(folder / "tags.yaml"))
    kinds = ("MPS", "CompositeImplicitAutograd", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    names = {str(function.func.name): function for function in table.native_functions}
    return names, [table.backend_indices[DispatchKey[kind]] for kind in kinds]


def has_kernel(name: str) -> bool:
    """Return True if MPS computes an operation itself, False if it would leave it to the CPU."""
    names, kinds = kernels()
    function = names[name]
    if any(kind.get_kernel(function) for kind in kinds):
        return True
    return function.structured_delegate is not None and has_kernel(str(function.structured_delegate))


def test_table_of_kernels_knows_what_mps_lacks() -> None:
    assert has_kernel("add.Tensor") and has_kernel("_fused_adamw_") and has_kernel("relu")
    assert not has_kernel("_fused_adagrad_") and not has_kernel("linalg_eig")


@pytest.mark.parametrize(
    "settings",
    [
        ("model.batch_norm=true", "model.dropout=0.2", "optimizer=adamw", "scheduler=one_cycle"),
        ("data=cubic", "optimizer=sgd", "scheduler=exponential", "model.l2=0.01"),
        ("data=gate", "optimizer=lbfgs"),
        ("data=fashion_mnist", "model=cnn", "model.label_smoothing=0.1", *ON_IMAGES),
        ("data=cifar10", "model=cnn", "optimizer=muon", "trainer.gradient_clip_val=1"),
        ("data=cifar10", "data.train_size=16", "model=resnet18", "model.weights=null"),
        ("data=fashion_mnist", "model=nearest_neighbor"),
    ],
    ids=lambda settings: " ".join(settings),
)
def test_training_uses_only_mps_operations(
    settings: tuple[str, ...], data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Training and testing use no 64-bit floats, no pinned memory and no operation that MPS lacks."""
    watch = Watch()
    for name in ("fit", "test"):
        plain = getattr(lightning.Trainer, name)

        def watched(*args: Any, plain: Any = plain, **given: Any) -> Any:
            with watch:
                return plain(*args, **given)

        monkeypatch.setattr(lightning.Trainer, name, watched)
    data = settings[0].removeprefix("data=") if "mnist" in settings[0] or "cifar" in settings[0] else None
    more = get_small_image_settings(data, data_dir) if data else []
    train_bare(*more, *[each for each in settings if each not in more], "trainer.max_epochs=2", cwd=tmp_path)
    assert watch.count > 100
    assert not watch.found
    assert not {name for name in watch.operations if not has_kernel(name)}


def test_stack_uses_only_mps_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack sums its metrics without 64-bit floats, pinned memory or an operation that MPS lacks."""
    monkeypatch.setattr(stack, "choose_sum_dtype", lambda kind: devices.choose_sum_dtype(devices.MPS))
    samples = Samples(torch.randn(90, 4), torch.arange(90) % 3)
    about = {"in_shape": [4], "num_classes": 3, "task": "multiclass", "activation": "relu"}
    optimizer = {"_target_": "torch.optim.SGD", "lr": 0.1}
    models = [MLP(hidden_size=[8], dropout=0.1, batch_norm=True, optimizer=optimizer, **about) for _ in range(2)]
    feed = StackedBatches(
        InMemoryDataModule(samples, class_names=("a", "b", "c"), shuffle=True),
        [0, 1],
        torch.device("cpu"),
        torch.float32,
    )
    jobs = stack.StackedModel(models, [0, 1], feed, Schedules(models, 9, 1), log_interval=3, eval_batch=50)
    outputs = torch.randn(30, 2, 3)
    looking = stack.EpochMetrics(jobs, 1)
    with Watch() as watch:
        jobs.evaluate(samples)
        looking.add(outputs, samples.targets[:30, None].expand(-1, 2))
    assert watch.count > 50
    assert not watch.found
    assert not {name for name in watch.operations if not has_kernel(name)}
