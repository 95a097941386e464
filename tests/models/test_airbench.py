"""The airbench network: its layers, what is trained in it and how fast."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.core.errors import InputError
from src.data.loading.samples import Samples
from src.models.airbench import Airbench
from tests.doubles import SGD, InMemoryDataModule, is_plain, quiet_trainer, reload_model


def airbench(widths: list[int], in_shape: tuple[int, ...] = (3, 9, 9), **settings: Any) -> Airbench:
    """A classifier of ten classes."""
    base = {"scaling_factor": 1.0, "batch_norm_momentum": 0.4, "bias_lr_factor": 64, "optimizer": SGD}
    about = {"in_shape": list(in_shape), "num_classes": 10, "task": "multiclass"}
    return Airbench(widths, **{**base, **about, **settings})


def norms(model: Airbench) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_parameter_count_matches_formula() -> None:
    parameters = list(airbench([64, 256, 256], (3, 32, 32)).parameters())
    whitening = 24 * (3 * 2 * 2 + 1)  # both signs of twelve components, and biases
    blocks = sum(9 * a * b + 9 * b * b + 2 * 2 * b for a, b in [(24, 64), (64, 256), (256, 256)])
    assert sum(parameter.numel() for parameter in parameters) == whitening + blocks + 256 * 10 == 1_972_792
    fixed = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    assert fixed == 24 * 12 + 2 * (64 + 256 + 256)  # the filters, and the batch norms' scales


def test_blocks_pool_after_their_first_convolution() -> None:
    model, sides = airbench([4, 6], (3, 21, 37)), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, given, output: sides.append(tuple(output.shape[1:])))
    layers = "Conv2d MaxPool2d BatchNorm2d GELU Conv2d BatchNorm2d GELU"
    assert [type(layer).__name__ for layer in model.net.features[2].children()] == layers.split()
    assert model(torch.randn(2, 3, 21, 37)).shape == (2, 10)
    assert sides == [(24, 20, 36), (4, 20, 36), (4, 10, 18), (6, 10, 18), (6, 5, 9)]


def test_convolutions_start_as_identity() -> None:
    first, images = airbench([32]).net.get_submodule("features.2.0"), torch.randn(2, 24, 8, 8)
    assert torch.equal(first(images)[:, :24], images)


def test_classifier_gets_channel_maxima() -> None:
    """The largest value of each channel is classified, and the outputs are scaled by `scaling_factor`."""
    model, x = airbench([4, 6], scaling_factor=0.5).eval(), torch.randn(3, 3, 9, 9)
    largest = model.net.features[:-1](x).amax(dim=(2, 3))  # (3, 6)
    assert torch.equal(model(x), model.net.classifier(largest) / 2)


def test_batch_norm_biases_train_faster() -> None:
    """Biases of batch norm have a higher learning rate and a lower weight decay than the other weights."""
    model = airbench([4, 6], optimizer={**SGD, "lr": 0.1, "weight_decay": 0.02})
    others, biases = model.configure_optimizers().param_groups
    assert (others["lr"], others["weight_decay"]) == (0.1, 0.02)
    assert (biases["lr"], biases["weight_decay"]) == (pytest.approx(6.4), pytest.approx(0.02 / 64))
    assert [id(bias) for bias in biases["params"]] == [id(norm.bias) for norm in norms(model)]
    found = sorted(id(parameter) for parameter in [*others["params"], *biases["params"]])
    assert found == sorted(id(parameter) for parameter in model.parameters())


def test_scales_of_batch_norms_stay_at_1(tmp_path: Path) -> None:
    model = airbench([4], optimizer={**SGD, "weight_decay": 0.1, "momentum": 0.9, "fused": True})
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    quiet_trainer(tmp_path).fit(
        model, datamodule=InMemoryDataModule(Samples(torch.randn(20, 3, 9, 9), torch.arange(20) % 10))
    )
    stayed = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert stayed == {f"net.features.{name}.weight" for name in ("0", "2.2", "2.5")}
    assert all((norm.weight == 1).all() for norm in norms(model))


def test_running_statistics_follow_batches() -> None:
    """The running statistics of batch norm move by its momentum towards those of each batch."""
    model, x = airbench([4]), torch.randn(16, 3, 9, 9)
    layers = [model.net.get_submodule(f"features.{name}") for name in ("0", "1", "2.0", "2.1")]
    values = nn.Sequential(*layers)(x)  # (16, 4, 4, 4), as the first batch norm gets them
    model(x)
    norm = norms(model)[0]
    torch.testing.assert_close(norm.running_mean, 0.4 * values.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, 0.6 + 0.4 * values.var(dim=(0, 2, 3)))


@pytest.mark.parametrize(("side", "most"), [(33, 5), (32, 4), (3, 1), (2, 0), (1, 0)])
def test_too_many_blocks_are_refused(side: int, most: int) -> None:
    """More blocks than the size of the image allows are refused; the error names the largest number."""
    if most:
        assert airbench([2] * most, (1, side, side))(torch.zeros(2, 1, side, side)).shape == (2, 10)
    message = rf"^model\.widths has {most + 1} blocks.* {side}×{side} pixels allow at most {most}$"
    with pytest.raises(InputError, match=message):
        airbench([2] * (most + 1), (1, side, side))


def test_checkpoint_restores_model(tmp_path: Path) -> None:
    model, x = airbench([4, 6]), torch.randn(16, 3, 9, 9)
    model(x)  # batch norm's running statistics move
    assert torch.equal(reload_model(model, tmp_path).eval()(x), model.eval()(x))
    assert is_plain(dict(model.hparams))
