"""Testing images together with their mirror images."""

from pathlib import Path

import pytest
import torch
from torch import nn

from src.data.loading.samples import Samples
from src.models.cnn import CNN
from src.models.images import ImageModule
from tests.command_line import BatchRecorder, evaluate, get_small_image_settings, read_json, train_bare
from tests.doubles import ZERO_RATE_SGD, InMemoryDataModule, quiet_trainer


def test_flip_test_combines_both_views(data_dir: Path, tmp_path: Path) -> None:
    """The outputs for a test image and for its mirror image are added before the class is predicted."""
    small = ["model=cnn", "model.channels=[4]", "model.hidden_size=[]", "trainer.max_epochs=1", "model.flip_test=true"]
    outcome = train_bare(*get_small_image_settings("mnist", data_dir), *small, BatchRecorder.SETTING, cwd=tmp_path)
    model = CNN.load_from_checkpoint(outcome.folder / "checkpoints" / "best.ckpt", weights_only=True).eval()
    ((inputs, targets),) = BatchRecorder.last.tested
    with torch.no_grad():
        alone, mirrored = model(inputs), model(inputs.flip(3))  # (100, 10)
    metrics = outcome.metrics
    assert metrics["test/acc"] == pytest.approx((alone.argmax(dim=1) == targets).double().mean().item())
    both = ((alone + mirrored).argmax(dim=1) == targets).double().mean().item()
    assert metrics["test/acc_flip"] == pytest.approx(both)
    assert metrics["test/acc_flip"] != metrics["test/acc"]
    evaluate(f"run={outcome.folder}", "split=test", cwd=tmp_path)
    assert read_json(outcome.folder / "eval_test.json")["test/acc_flip"] == metrics["test/acc_flip"]


class FixedWeights(ImageModule):
    """Twice the left pixel minus the right one; of both views the mean is half the pixels' sum."""

    def __init__(self, task: str) -> None:
        super().__init__(
            flip_test=True, in_shape=[1, 1, 2], num_classes=2 * (task == "binary"), task=task, optimizer=ZERO_RATE_SGD
        )
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        self.net[1].weight.data = torch.tensor([[2.0, -1.0]])


@pytest.mark.parametrize(("task", "found"), [("binary", {"test/acc": 0.5, "test/acc_flip": 0.75}), ("regression", {})])
def test_flip_accuracy_needs_classes(task: str, found: dict[str, float], tmp_path: Path) -> None:
    """The mean of both views decides the class; regression has no such metric."""
    inputs = torch.tensor([[1.0, -3.0], [-1.0, 3.0], [1.0, 0.0], [0.0, -1.0]]).view(4, 1, 1, 2)
    samples = Samples(inputs, torch.tensor([0, 1, 1, 1]))  # alone 1, 0, 1, 1; both 0, 1, 1, 0
    data = InMemoryDataModule(samples, test=samples, task=task, class_names=("a", "b") if task == "binary" else ())
    (metrics,) = quiet_trainer(tmp_path).test(FixedWeights(task), datamodule=data, verbose=False)
    assert {name: value for name, value in metrics.items() if "acc" in name} == found
