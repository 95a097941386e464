"""The first layer that decorrelates: its filters by known answers, and that they stay as they were fitted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from src.callbacks.whitening import FitWhitening
from src.core.errors import InputError
from src.data.loading.samples import Samples
from src.models.airbench import Airbench
from src.models.layers import CHUNK_SIZE, VARIANCE_FLOOR, Whitening, compute_covariance
from tests.doubles import SGD, InMemoryDataModule, quiet_trainer, reload_model


def images(count: int = 40, channels: int = 3, side: int = 8) -> Tensor:
    """Smooth images (N, C, side, side), whose channels are alike too: mean about 0, neighbours correlated."""
    noise = torch.randn(count, channels, side + 2, side + 2)
    smooth = F.avg_pool2d(noise, 3, stride=1)
    return 2 * smooth + smooth.mean(dim=1, keepdim=True)


def make_fitted_layer(given: Tensor, size: int = 2) -> Whitening:
    layer = Whitening(given.shape[1], size)
    layer.fit(given)
    return layer


def compute_responses(layer: Whitening, given: Tensor) -> Tensor:
    """What the filters alone answer at each place, (filters, N·places)."""
    return F.conv2d(given, layer.weight).transpose(0, 1).flatten(1)


def data(given: Tensor, batch_size: int = 10) -> InMemoryDataModule:
    return InMemoryDataModule(
        Samples(given, torch.arange(len(given)) % 3), class_names=tuple("abc"), batch_size=batch_size
    )


def make_network() -> Airbench:
    """A classifier of three classes with a first layer that decorrelates 2×2 patches."""
    return Airbench([4], 1.0, 0.1, 1.0, in_shape=[3, 8, 8], num_classes=3, task="multiclass", optimizer=SGD)


def fit(model: Airbench, given: Tensor, folder: Path, epochs: int = 1, resume: Path | None = None) -> Tensor:
    """Train on images; returns the filters then."""
    trainer = quiet_trainer(folder, max_epochs=epochs, callbacks=[FitWhitening()])
    trainer.fit(model, datamodule=data(given), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    return copy_filters(model)


def copy_filters(model: Airbench) -> Tensor:
    return model.net.state_dict()["features.0.weight"].clone()


# The filters


def test_responses_are_whitened() -> None:
    """The responses to the fitted images are uncorrelated and have a variance of about 1."""
    given = images()
    first = compute_responses(make_fitted_layer(given), given)[:12].double()  # 2·2 pixels of three channels
    assert first.mean(dim=1).abs().max() < 0.2
    moments = first @ first.T / first.shape[1]
    patches = F.unfold(given, 2).transpose(1, 2).flatten(0, 1).double()
    variances = torch.linalg.eigvalsh(patches.T @ patches / len(patches))
    assert variances.min() > 0.01  # far above the floor
    torch.testing.assert_close(moments, torch.diag(variances / (variances + VARIANCE_FLOOR)), rtol=0, atol=1e-5)
    assert moments.diagonal().min() > 0.95 and moments.diagonal().max() < 1


def test_components_have_both_signs() -> None:
    layer = make_fitted_layer(images(), size=3)
    assert layer.weight.shape == (2 * 3 * 9, 3, 3, 3)
    assert torch.equal(layer.weight[:27], -layer.weight[27:])


def test_single_pixels_are_standardized() -> None:
    """Patches of one pixel are divided by their standard deviation."""
    layer = make_fitted_layer(torch.tensor([2.0, -2.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4), size=1)
    assert sorted(layer.weight.flatten().tolist()) == pytest.approx(
        [-1 / (4 + VARIANCE_FLOOR) ** 0.5, 1 / (4 + VARIANCE_FLOOR) ** 0.5]
    )


def test_constant_directions_are_bounded() -> None:
    """Directions in which patches do not vary are not amplified beyond the variance floor."""
    layer = make_fitted_layer(torch.randn(50, 1, 1, 1).expand(50, 1, 4, 4))  # of one shade each
    norms = sorted(layer.weight[:4].flatten(1).norm(dim=1).tolist())
    assert norms[1:] == pytest.approx([1 / VARIANCE_FLOOR**0.5] * 3, rel=1e-4)
    assert norms[0] < 1


def test_covariance_is_computed_in_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Patches are taken from a few images at a time, and the covariance is that of all patches."""
    given, at_once, unfold = images(2 * CHUNK_SIZE + 7, side=5), [], F.unfold
    patches = unfold(given, 3).transpose(1, 2).flatten(0, 1).double()

    def noted(part: Tensor, size: int) -> Tensor:
        at_once.append(len(part))
        return unfold(part, size)

    monkeypatch.setattr(F, "unfold", noted)
    torch.testing.assert_close(compute_covariance(given, 3), patches.T @ patches / len(patches), rtol=0, atol=1e-10)
    assert at_once == [CHUNK_SIZE, CHUNK_SIZE, 7]


# In a network


def test_training_changes_only_bias(tmp_path: Path) -> None:
    """The filters are fitted to the training images, and only the bias is trained."""
    given, model = images(), make_network()
    before = model.net.state_dict()["features.0.bias"].clone()
    assert torch.equal(fit(model, given, tmp_path, epochs=2), make_fitted_layer(given).weight)
    assert (model.net.state_dict()["features.0.bias"] != before).all()


def test_checkpoint_filters_are_not_refitted(tmp_path: Path) -> None:
    """Filters from a checkpoint stay if the model is trained on other images."""
    first, other = images(), images()
    model = make_network()
    learned = fit(model, first, tmp_path)
    again = reload_model(model, tmp_path)
    assert torch.equal(copy_filters(again), learned)
    assert torch.equal(fit(again, other, tmp_path), learned)
    assert not torch.equal(fit(make_network(), other, tmp_path), learned)


def test_resumed_run_keeps_filters(tmp_path: Path) -> None:
    learned = fit(make_network(), images(), tmp_path)
    assert torch.equal(fit(make_network(), images(), tmp_path, epochs=2, resume=tmp_path / "last.ckpt"), learned)


def test_data_outside_tensors_are_refused(tmp_path: Path) -> None:
    """Data that are not in a TensorDataModule are refused."""
    batches: Any = DataLoader([(image, 0) for image in images(4)], batch_size=2)
    with pytest.raises(
        InputError, match=r"^Airbench takes its first filters from a TensorDataModule's training images"
    ):
        quiet_trainer(tmp_path, callbacks=[FitWhitening()]).fit(make_network(), batches)
