import hashlib
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision.models
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from src.core.errors import InputError
from src.data.loading.samples import Samples
from src.models.resnet18 import ResNet18
from tests.doubles import SGD, InMemoryDataModule, is_plain, quiet_trainer, reload_model

State = dict[str, Tensor]


def resnet(in_shape: tuple[int, ...] = (3, 32, 32), **settings: Any) -> ResNet18:
    """A classifier of ten classes; the original stem is the quicker one."""
    given = {"weights": None, "freeze": "none", "backbone_lr_factor": 1.0, "stem": "imagenet", "dropout": 0.0}
    base = {"in_shape": list(in_shape), "num_classes": 10, "task": "multiclass", "optimizer": SGD}
    return ResNet18(**{**given, "resize": None, **base, **settings})


def images(channels: int = 3) -> InMemoryDataModule:
    """Eight images in two batches."""
    samples = Samples(torch.randn(8, channels, 32, 32), torch.arange(8))
    return InMemoryDataModule(samples, samples, class_names=tuple("0123456789"), batch_size=4)


def copy_state(model: nn.Module) -> State:
    return {name: value.clone() for name, value in model.state_dict().items()}


def find_changed_weights(before: State, after: nn.Module) -> set[str]:
    """The names of the weights and running statistics that are no longer the same."""
    now = after.state_dict()
    assert set(before) == set(now)
    return {name for name in before if not torch.equal(before[name], now[name])}


def fit(model: ResNet18, folder: Path, **settings: Any) -> Trainer:
    trainer = quiet_trainer(folder, **settings)
    trainer.fit(model, datamodule=images())
    return trainer


# The network


def test_network_matches_torchvision() -> None:
    theirs = torchvision.models.resnet18().eval()
    model = resnet(num_classes=1000).eval()
    own = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    model.net.backbone.load_state_dict(own)
    model.net.head[1].load_state_dict(theirs.fc.state_dict())
    x = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(model(x), theirs(x))


def test_grey_images_are_repeated_as_colour() -> None:
    """A grey image gives the same outputs as a colour image with three equal channels."""
    model, grey = resnet((1, 32, 32)).eval(), torch.randn(4, 1, 32, 32)
    torch.testing.assert_close(model(grey), model(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(("stem", "sides"), [("small", [32, 16, 8, 4]), ("imagenet", [8, 4, 2, 1])])
def test_small_stem_keeps_image_size(stem: str, sides: list[int]) -> None:
    backbone = resnet(stem=stem).net.backbone
    shapes: list[tuple[int, ...]] = []
    for layer in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        layer.register_forward_hook(lambda layer, inputs, output: shapes.append(tuple(output.shape[1:])))
    backbone(torch.randn(2, 3, 32, 32))
    assert shapes == [(width, side, side) for width, side in zip((64, 128, 256, 512), sides, strict=True)]


@pytest.mark.parametrize(
    ("stem", "weights", "side"),
    [("auto", None, 3), ("auto", "IMAGENET1K_V1", 7), ("auto", "some.ckpt", 3), ("small", "IMAGENET1K_V1", 3)],
)
def test_auto_stem_follows_weights(stem: str, weights: str | None, side: int) -> None:
    """The automatic stem is small unless the published weights need the original one."""
    assert resnet(stem=stem, weights=weights).net.backbone.conv1.kernel_size == (side, side)


def test_images_are_resized_as_configured() -> None:
    model, x = resnet(resize=48).eval(), torch.randn(2, 3, 32, 32)
    larger = nn.functional.interpolate(x, size=(48, 48), mode="bilinear", antialias=True)
    assert torch.equal(model(x), model.net.head(model.net.backbone(larger)))
    assert not torch.allclose(model(x), resnet().eval()(x))


def test_dropout_is_active_in_training_only() -> None:
    """Dropout applies to the features before the output layer, in training only."""
    model = resnet(dropout=0.5)
    features = torch.ones(4, 512)
    assert not torch.equal(model.net.head(features), model.net.head(features))
    model.eval()
    assert torch.equal(model.net.head(features), model.net.head(features))


def test_checkpoint_restores_model(tmp_path: Path) -> None:
    model, x = resnet(stem="small"), torch.randn(4, 3, 8, 8)
    model(x)  # batch norm's running statistics move
    assert torch.equal(reload_model(model, tmp_path).eval()(x), model.eval()(x))
    assert is_plain(dict(model.hparams))


# Weights learned elsewhere


class InitialWeights(Callback):
    """Keeps a copy of the weights that training starts with."""

    state: State

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.state = copy_state(pl_module)


def get_initial_weights(weights: str, folder: Path, **settings: Any) -> tuple[State, State]:
    """The backbone and the head that a run with these weights starts from."""
    first = InitialWeights()
    fit(resnet(weights=weights, **settings), folder, callbacks=[first], limit_train_batches=1, limit_val_batches=0)
    backbone = {
        name.removeprefix("net.backbone."): value
        for name, value in first.state.items()
        if name.startswith("net.backbone.")
    }
    return backbone, {name: value for name, value in first.state.items() if name.startswith("net.head.")}


def is_same(first: State, second: State) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def drop_output_layer(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


@pytest.fixture
def theirs() -> State:
    """A state dict in torchvision's own form, of random weights."""
    torch.manual_seed(7)
    return copy_state(torchvision.models.resnet18())


def test_weights_load_from_run_checkpoint(tmp_path: Path) -> None:
    source = resnet(num_classes=4)
    trainer = quiet_trainer(tmp_path)
    trainer.strategy.connect(source)
    trainer.save_checkpoint(tmp_path / "source.ckpt")
    backbone, head = get_initial_weights(str(tmp_path / "source.ckpt"), tmp_path)
    assert is_same(backbone, copy_state(source.net.backbone))
    assert head["net.head.1.weight"].shape == (10, 512)


def test_weights_load_from_torchvision_state_dict(theirs: State, tmp_path: Path) -> None:
    torch.save(theirs, tmp_path / "theirs.pth")
    backbone, head = get_initial_weights(str(tmp_path / "theirs.pth"), tmp_path)
    assert is_same(backbone, drop_output_layer(theirs))
    assert head["net.head.1.weight"].shape == (10, 512)


def test_published_weights_load_from_cache(theirs: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub/checkpoints"
    cache.mkdir(parents=True)
    torch.save(theirs, cache / "new.pth")
    digest = hashlib.sha256((cache / "new.pth").read_bytes()).hexdigest()[:8]
    path = (cache / "new.pth").rename(cache / f"resnet18-{digest}.pth")
    monkeypatch.setattr(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value, "url", f"https://none/{path.name}")
    backbone, _ = get_initial_weights("IMAGENET1K_V1", tmp_path, stem="auto")
    assert is_same(backbone, drop_output_layer(theirs))


def test_failed_download_names_weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the published weights cannot be downloaded, the error names the file and where to put it."""

    def offline(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(InputError) as caught:
        get_initial_weights("IMAGENET1K_V1", tmp_path)
    assert f"put resnet18-f37072fd.pth into {tmp_path / 'hub/checkpoints'}" in str(caught.value)


def test_damaged_cached_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file in torch's cache is refused by its SHA-256, and the error names it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub/checkpoints"
    cache.mkdir(parents=True)
    (cache / "resnet18-f37072fd.pth").write_bytes(b"<html>moved</html>")
    with pytest.raises(InputError, match=r"resnet18-f37072fd\.pth is damaged: its SHA-256 does not"):
        get_initial_weights("IMAGENET1K_V1", tmp_path)


def test_wrong_cached_weights_are_refused(theirs: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in torch's cache with other weights than the published ones is refused."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(theirs, tmp_path / "hub/checkpoints/resnet18-f37072fd.pth")
    with pytest.raises(InputError, match="does not begin with f37072fd"):
        get_initial_weights("IMAGENET1K_V1", tmp_path)


def test_weights_of_other_stem_are_refused(theirs: State, tmp_path: Path) -> None:
    torch.save(theirs, tmp_path / "theirs.pth")
    with pytest.raises(InputError, match=r"does not fit this backbone at conv1\.weight: choose model\.stem"):
        get_initial_weights(str(tmp_path / "theirs.pth"), tmp_path, stem="small")


def test_weights_of_other_model_are_refused(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth does not contain a ResNet18"):
        get_initial_weights(str(tmp_path / "other.pth"), tmp_path)


def test_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.ckpt does not exist"):
        get_initial_weights(str(tmp_path / "none.ckpt"), tmp_path)


def test_pretrained_weights_load_only_once(tmp_path: Path) -> None:
    """Evaluation and a resumed run do not load the pretrained weights again."""
    model = resnet(weights=str(tmp_path / "gone.ckpt"))
    quiet_trainer(tmp_path).validate(model, datamodule=images(), verbose=False)
    source = resnet()
    trainer = fit(source, tmp_path, limit_train_batches=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = quiet_trainer(tmp_path, max_epochs=1)
    resumed.fit(model, datamodule=images(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert not find_changed_weights(copy_state(source), model)


# Freezing


class ChangeRecorder(Callback):
    """Notes what each epoch changes."""

    def __init__(self) -> None:
        self.epochs: list[set[str]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = copy_state(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append(find_changed_weights(self.before, pl_module))


HEAD_WEIGHTS = {"net.head.1.weight", "net.head.1.bias"}


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [("none", [False, False]), (0, [False, False]), (1, [True, False]), (2, [True, True]), ("backbone", [True, True])],
)
def test_frozen_backbone_does_not_change(freeze: str | int, frozen: list[bool], tmp_path: Path) -> None:
    """The weights and the running statistics of a frozen backbone stay as they are."""
    model, changes = resnet(freeze=freeze), ChangeRecorder()
    fit(model, tmp_path, max_epochs=2, callbacks=[changes])
    everything = set(model.state_dict())
    assert changes.epochs == [HEAD_WEIGHTS if epoch else everything for epoch in frozen]


@pytest.mark.parametrize("freeze", ["backbone", 1])
def test_frozen_backbone_stays_in_evaluation_mode(freeze: str | int, tmp_path: Path) -> None:
    """A frozen backbone has no gradients and stays in evaluation mode."""
    model = resnet(freeze=freeze)
    fit(model, tmp_path)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == HEAD_WEIGHTS
    model.train()
    assert not any(module.training for module in model.net.backbone.modules())
    assert model.net.head.training


def learning_rates(folder: Path, **settings: Any) -> list[tuple[float, int]]:
    """The learning rate and the number of weights of each parameter group."""
    trainer = fit(resnet(**settings), folder, limit_train_batches=1, limit_val_batches=0)
    groups = trainer.optimizers[0].param_groups
    return [(group["lr"], sum(weight.numel() for weight in group["params"])) for group in groups]


def test_pretrained_backbone_learns_slower(theirs: State, tmp_path: Path) -> None:
    """The backbone has a lower learning rate only if it starts from pretrained weights."""
    torch.save(theirs, tmp_path / "theirs.pth")
    backbone = sum(value.numel() for value in torchvision.models.resnet18().parameters()) - 1000 * 513
    head = 10 * 513
    slower = learning_rates(tmp_path, weights=str(tmp_path / "theirs.pth"), backbone_lr_factor=0.1)
    assert slower == [(pytest.approx(0.01), backbone), (0.1, head)]
    assert learning_rates(tmp_path, backbone_lr_factor=0.1) == [(0.1, backbone), (0.1, head)]
