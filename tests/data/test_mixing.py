"""Mixup and CutMix: images and targets in the same shares, the loss of soft targets, an exact resume."""

from pathlib import Path

import pytest
import torch

from src.data.images import ImageDataModule
from src.data.loading.samples import Samples
from src.models.mlp import MLP
from src.models.supervision.losses import LOSSES, SMOOTHABLE
from tests.command_line import (
    get_small_image_settings,
    is_identical,
    read_history,
    read_weights,
    run,
    train,
    train_bare,
)
from tests.doubles import SGD, quiet_trainer

BOTH = ("data.mixup=0.4", "data.cutmix=1.0")


class Pictures(ImageDataModule):
    """24 random images of three classes, in their order."""

    in_shape = (1, 8, 8)
    class_names = ("a", "b", "c")

    def load(self) -> tuple[Samples, Samples]:
        images = torch.randint(1, 256, (24, 1, 8, 8), dtype=torch.uint8)
        return Samples(images, torch.arange(24) % 3), Samples(images[:6], torch.arange(6) % 3)


def make_pictures(**settings: float) -> Pictures:
    data = Pictures(batch_size=8, val_size=0, shuffle=False, standardize=False, **settings)
    data.setup()
    return data


def mix_batch(data: Pictures) -> tuple[Samples, Samples]:
    """Return a batch before and after mixing, with one-hot targets before."""
    assert data.train_set is not None
    batch = data.train_set.take(slice(0, 8))
    images = data.transform(batch.inputs)
    hot = torch.nn.functional.one_hot(batch.targets, 3).float()
    return Samples(images, hot), data.mix(Samples(images, batch.targets))


def roll(samples: Samples) -> Samples:
    """Return each sample's partner, the one before it."""
    return Samples(*(part.roll(1, 0) for part in samples))


def is_cut(before: Samples, after: Samples) -> bool:
    """Whether each pixel is the image's own or its partner's."""
    return bool(((after.inputs == before.inputs) | (after.inputs == roll(before).inputs)).all())


def test_mixup_blends_images_and_targets_alike() -> None:
    before, after = mix_batch(make_pictures(mixup=1.0))
    share = after.targets.max() if after.targets.max() < 1 else after.targets[after.targets > 0].min()
    assert 0 < share < 1
    blends = [
        all(torch.allclose(new, own * each + other * (1 - each), atol=1e-6) for new, own, other in parts)
        for each in (share, 1 - share)
        for parts in [zip(after, before, roll(before), strict=True)]
    ]
    assert sum(blends) == 1
    assert not is_cut(before, after)


def test_cutmix_share_is_pixels_kept() -> None:
    before, after = mix_batch(make_pictures(cutmix=1.0))
    assert is_cut(before, after)
    kept = (after.inputs != roll(before).inputs).float().mean(dim=(1, 2, 3)).unsqueeze(1)  # a few pixels are equal
    assert torch.allclose(after.targets, kept * before.targets + (1 - kept) * roll(before).targets, atol=0.05)


def test_both_kinds_are_chosen_at_random() -> None:
    data = make_pictures(mixup=1.0, cutmix=1.0)
    assert 5 < sum(is_cut(*mix_batch(data)) for _ in range(40)) < 35


@pytest.mark.parametrize("name", SMOOTHABLE)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_of_shares_is_mean_of_losses(name: str, smoothing: float) -> None:
    """A loss that is linear in the target is, for shares, the weighted mean of the classes' losses."""
    outputs, shares = torch.randn(6, 3), torch.rand(6, 3).softmax(dim=1)
    each = torch.stack([LOSSES[name](outputs, torch.full((6,), k), smoothing, "none") for k in range(3)], dim=1)
    wanted = (shares * each).sum(dim=1).mean()
    found = LOSSES[name](outputs, shares, smoothing)
    if name == "quadratic":  # not linear: smaller by half the variance of the target
        smoothed = shares * (1 - smoothing) + smoothing / 3
        wanted = (outputs.sigmoid() - smoothed).square().sum(dim=1).mean() / 2
    assert torch.allclose(found, wanted, atol=1e-6)


def test_training_equals_hand_written_loop(tmp_path: Path) -> None:
    """Weights, loss and accuracy of an epoch are those of a loop over the same mixed batches."""
    about = {"in_shape": [1, 8, 8], "num_classes": 3, "task": "multiclass", "optimizer": SGD}
    model, plain = [MLP([5], "tanh", 0.0, False, **about) for _ in range(2)]
    plain.load_state_dict(model.state_dict())
    trainer = quiet_trainer(tmp_path)
    data = make_pictures(mixup=0.4, cutmix=1.0)
    torch.manual_seed(7)
    trainer.fit(model, datamodule=data)
    torch.manual_seed(7)
    optimizer, loss_sum, correct = torch.optim.SGD(plain.parameters(), lr=SGD["lr"]), 0.0, 0
    assert data.train_set is not None
    for inputs, targets in zip(*(part.split(8) for part in data.train_set), strict=True):
        mixed, shares = data.mix(Samples(data.transform(inputs), targets))
        outputs = plain(mixed)
        loss = -(shares * outputs.log_softmax(dim=1)).sum(dim=1).mean()
        loss_sum, correct = loss_sum + loss.item(), correct + int((outputs.argmax(1) == shares.argmax(1)).sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.allclose(model.state_dict()[name], weight) for name, weight in plain.state_dict().items())
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(loss_sum / 3, rel=1e-5)
    assert trainer.callback_metrics["train/acc"].item() == pytest.approx(correct / 24)


def test_resumed_mixed_run_is_identical(data_dir: Path, tmp_path: Path) -> None:
    """With mixing, class weights and averaged weights a resumed run is the uninterrupted one, also in chunks."""
    images = get_small_image_settings("mnist", data_dir)
    given = (*images, *BOTH, "data.crop=1", "model.hidden_size=8", "model.class_weights=balanced")
    for average in ((), ("ema=0.9",)):  # without it, steps are taken in chunks
        whole = train_bare(*given, *average, "trainer.max_epochs=3", cwd=tmp_path).folder
        resumed = train_bare(*given, *average, "trainer.max_epochs=1", cwd=tmp_path).folder
        train(f"resume={resumed}", "trainer.max_epochs=3", cwd=tmp_path)
        assert read_history(resumed) == read_history(whole)
        assert is_identical(read_weights(resumed), read_weights(whole))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("model.loss=perceptron",), "data.mixup and data.cutmix have no meaning for model.loss=perceptron"),
        (("model=nearest_neighbor",), "NearestNeighbor"),
        (("data.cutmix=-1",), "data.cutmix=-1 must be 0 for none, or a number from 0.01 to 100"),
        (("ema=1",), "ema=1 must be null or a number above 0 and below 1"),
        (("data=xor", "+data.mixup=0.2"), "data.mixup"),
        (("data=xor", "model=nearest_neighbor", "ema=0.9"), "averages weights, and NearestNeighbor has no"),
    ],
)
def test_unsuitable_mixing_is_refused(given: tuple[str, ...], message: str, data_dir: Path, tmp_path: Path) -> None:
    images = [] if "data=xor" in given else [*get_small_image_settings("mnist", data_dir), "data.mixup=0.2"]
    assert message in run("src.train", *images, *given, cwd=tmp_path).error
